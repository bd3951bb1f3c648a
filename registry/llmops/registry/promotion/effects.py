"""What a change of state does to aliases and tags, in the same transaction: challenger, champion, previous champion.

Knows the aliases' meaning. Every move rests on evidence about the version it points to: decisions of the promotion
itself are filed as records whose parents are the gates' records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from llmops.core.errors import ConflictError
from llmops.core.names import Name
from llmops.registry import aliases, evidence, queries, version_tags
from llmops.registry.aliases import Move, Moved
from llmops.registry.bootstrap import CHAMPION
from llmops.registry.evidence import Evidence, Method, Subject
from llmops.registry.promotion import rows
from llmops.registry.promotion.machine import Step
from llmops.registry.promotion.records import Promotion
from llmops.registry.promotion.states import FAILED, State
from llmops.registry.records import Alias, Version

CHALLENGER = "challenger"
PREVIOUS = "previous_champion"
DECISION = "promotion"
SUCCESSION = "succession"
DENIAL = "approval"
_METHOD_VERSION = "1"


def apply(connection: Connection, promotion: Promotion, due: Step, *, actor: str) -> tuple[str, ...]:
    """Do what entering `due.to` means; gives the evidence that the step rests on, decisions included."""
    if due.to is State.VALIDATING and promotion.state is State.REGISTERED:
        _tag(connection, promotion, version_tags.PENDING, actor)
    elif due.to is State.VALIDATED and promotion.state is State.VALIDATING:
        _tag(connection, promotion, version_tags.PASSED, actor)
        _challenge(connection, promotion, due, actor)
    elif due.to in FAILED:
        return _fail(connection, promotion, due, actor)
    elif due.to is State.PROMOTED:
        return _crown(connection, promotion, due, actor)
    return due.evidence


def decision(
    version: Version, gate: str, params: dict[str, Any], *, actor: str, baseline: Version | None = None, **more: Any
) -> Evidence:
    """A record of what promotion itself decided about a version."""
    return Evidence(
        asset=Subject.of(version),
        baseline=None if baseline is None else Subject.of(baseline),
        gate=gate,
        method=Method(name=gate, version=_METHOD_VERSION, params=params),
        actor=actor,
        **({"verdict": "pass"} | more),
    )


def pointed(connection: Connection, name: Name, alias: str) -> Alias | None:
    return aliases.read(connection, name, alias)


def require_reigning(last: Moved | None, name: Name, version: int | None) -> None:
    """Keep what was decided about one champion from being done to another; `last` is how that alias moved last.

    Raises:
        ConflictError: `version` is named, and is not champion.
    """
    if version is None or (last is not None and last.version == version):
        return
    now = f"version {last.version}" if last is not None and last.version is not None else "nobody"
    raise ConflictError(
        f"version {version} is not champion: {now} is",
        where=str(name),
        hint="look at it again (llmops models history), then decide anew",
    )


def leaving(connection: Connection, promotion: Promotion, evidence_id: str) -> list[Move]:
    """The move that takes `challenger` from a version, where it has it."""
    held = pointed(connection, promotion.name, CHALLENGER)
    if held is None or held.version != promotion.version:
        return []
    return [Move(promotion.name, CHALLENGER, None, held.etag, evidence_id)]


def end(connection: Connection, version: Version, to: State, evidence_ids: Sequence[str], *, actor: str) -> None:
    """Let the promotion of a version that is champion no more say so."""
    known = rows.newest(connection, version.name, version.version, State.PROMOTED)
    if known is not None:
        rows.swap(connection, known, rows.Change(to, evidence=tuple(evidence_ids)), actor=actor)


def _tag(connection: Connection, promotion: Promotion, value: str, actor: str) -> None:
    version_tags.put(connection, promotion.ref, version_tags.VALIDATION_STATUS, value, actor=actor)


def _challenge(connection: Connection, promotion: Promotion, due: Step, actor: str) -> None:
    champion = pointed(connection, promotion.name, CHAMPION)
    if champion is not None and champion.version == promotion.version:
        return
    held = pointed(connection, promotion.name, CHALLENGER)
    move = Move(promotion.name, CHALLENGER, promotion.version, held.etag if held else None, due.evidence[-1])
    aliases.move(connection, [move], actor=actor)


def _fail(connection: Connection, promotion: Promotion, due: Step, actor: str) -> tuple[str, ...]:
    if promotion.state is State.VALIDATING:
        _tag(connection, promotion, version_tags.FAILED, actor)
    filed = due.evidence
    if due.to is State.DENIED:
        version = queries.version(connection, promotion.name, promotion.version)
        params = {"promotion_id": promotion.promotion_id, "why": due.why}
        denial = decision(version, DENIAL, params, actor=actor, verdict="fail")
        filed = (*filed, evidence.save(connection, denial))
    aliases.move(connection, leaving(connection, promotion, filed[-1]), actor=actor)
    return filed


def _crown(connection: Connection, promotion: Promotion, due: Step, actor: str) -> tuple[str, ...]:
    """Move champion and previous champion together, end the old champion's promotion, and take challenger away."""
    version = queries.version(connection, promotion.name, promotion.version)
    held = pointed(connection, promotion.name, CHAMPION)
    old = None if held is None else queries.version(connection, promotion.name, held.version)
    params = {"promotion_id": promotion.promotion_id, "policy": promotion.policy.as_json()}
    made = decision(version, DECISION, params, actor=actor, baseline=old, parents=due.evidence)
    proof = evidence.save(connection, made)
    moves = [Move(version.name, CHAMPION, version.version, held.etag if held else None, proof)]
    if old is not None and old.version != version.version:
        moves += succeeded(connection, old, version, proof, actor=actor)
        end(connection, old, State.RETIRED, [moves[-1].evidence_id], actor=actor)
    aliases.move(connection, [*moves, *leaving(connection, promotion, proof)], actor=actor)
    return (*due.evidence, proof)


def succeeded(connection: Connection, old: Version, new: Version, proof: str, *, actor: str) -> list[Move]:
    """The move that keeps the replaced champion at hand."""
    before = pointed(connection, old.name, PREVIOUS)
    record = decision(old, SUCCESSION, {"replaced_by": str(new.ref)}, actor=actor, baseline=new, parents=(proof,))
    kept = evidence.save(connection, record)
    return [Move(old.name, PREVIOUS, old.version, before.etag if before else None, kept)]
