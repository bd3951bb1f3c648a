"""Evidence for a part from the evidence of the whole: a prompt or an index is judged by the chain that answers with it.

A prompt by itself answers nothing. What a comparison of the chain has shown holds for a part of it too, where the chain
was made of that very part and was compared with one that was made of the part's champion, or where the part has none.
The part's record names the whole's as its parent, with its verdict and effect. Knows evidence and lineage only.
"""

from __future__ import annotations

from datetime import UTC, datetime

from llmops.core.errors import NotFoundError, UserError
from llmops.core.names import Ref
from llmops.registry.assets import Registry
from llmops.registry.evidence import Evidence, Method, Subject
from llmops.registry.records import Version

COMPARISON = "comparison"
METHOD = "inherited"


def parts_of(whole: Version, registry: Registry) -> list[Version]:
    """The versions that a version was made of directly, with a lifecycle of their own."""
    upstream = [found.edge.upstream for found in registry.lineage(whole.ref) if found.depth == 1]
    return [registry.resolve(Ref.parse(node)) for node in upstream if "/" in node and ":" not in node]


def inherit_comparison(part: Version, whole: Version, registry: Registry) -> str:
    """File for a part what the newest comparison of the whole has shown; gives the record's id.

    Raises:
        NotFoundError: the whole was never compared.
        UserError: the whole was not made of this part, or what it was compared with not of the part's champion.
    """
    if part.ref not in {one.ref for one in parts_of(whole, registry)}:
        raise UserError(f"{whole.ref} was not made of {part.ref}", where=str(part.ref))
    records = [record for record in registry.evidence(whole) if record.gate == COMPARISON]
    if not records:
        raise NotFoundError(f"{whole.ref} was never compared", where=str(whole.ref), hint="compare it first")
    record = records[-1]
    inherited = Evidence(
        asset=Subject.of(part),
        baseline=_champion(part, record, registry),
        gate=COMPARISON,
        verdict=record.verdict,
        method=Method(name=METHOD, version="1", params={"of": str(whole.ref), "method": record.method.name}),
        alpha=record.alpha,
        effect=record.effect,
        ci_low=record.ci_low,
        ci_high=record.ci_high,
        n=record.n,
        data=record.data,
        env=record.env,
        actor=registry.actor,
        started=record.started,
        ended=datetime.now(UTC),
        parents=(record.evidence_id,),
    )
    return registry.add_evidence(inherited)


def _champion(part: Version, record: Evidence, registry: Registry) -> Subject | None:
    """The part's champion, which the whole's baseline has to have been made of."""
    held = registry.alias(part.name, "champion")
    if held is None:
        return None
    champion = registry.resolve(Ref(part.name, version=held.version))
    if record.baseline is not None:
        baseline = registry.resolve(Ref.parse(f"{record.baseline.name}/{record.baseline.version}"))
        if champion.ref in {one.ref for one in parts_of(baseline, registry)}:
            return Subject.of(champion)
    raise UserError(
        f"the comparison does not speak of the champion {champion.ref}",
        where=str(part.ref),
        hint="what the whole was compared with was made of another version; compare with the champion of today",
    )
