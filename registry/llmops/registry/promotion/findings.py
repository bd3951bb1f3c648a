"""What the filed evidence says about a version now: for each gate the newest record that speaks of this very version.

Knows evidence and the champion. A record whose text was changed after it was filed stops everything; one that compares
with another champion than today's counts as stale; one from before the version was rolled back does not count again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from llmops.core.names import Name
from llmops.registry import aliases, bootstrap, evidence, queries
from llmops.registry.evidence import Evidence
from llmops.registry.promotion import approvals
from llmops.registry.promotion.machine import Finding, Findings, Gate, Verdict, required
from llmops.registry.promotion.policy import Policy
from llmops.registry.promotion.records import Promotion
from llmops.registry.promotion.states import State
from llmops.registry.promotion.tables import steps
from llmops.registry.records import Version


@dataclass(frozen=True)
class Scene:
    """A version, the champion beside it, and when the version was last rolled back."""

    version: Version
    champion: Version | None
    fallen_at: datetime | None


def scene(connection: Connection, promotion: Promotion) -> Scene:
    """What a decision about a promotion looks at, as it is in this transaction."""
    version = queries.version(connection, promotion.name, promotion.version)
    held = champion(connection, version.name)
    fallen = connection.execute(
        select(func.max(steps.c.at)).where(
            steps.c.name == str(version.name),
            steps.c.version == version.version,
            steps.c.after == State.ROLLED_BACK.value,
        )
    ).scalar()
    return Scene(version, held, fallen)


def champion(connection: Connection, name: Name) -> Version | None:
    """Who is champion now."""
    held = aliases.read(connection, name, bootstrap.CHAMPION)
    return None if held is None else queries.version(connection, name, held.version)


def filed(connection: Connection, record: Evidence) -> bool:
    """Whether a record is there already."""
    return evidence.gate_of(connection, record.evidence_id) is not None


def gather(connection: Connection, promotion: Promotion, view: Scene, *, now: datetime) -> Findings:
    """Everything that `machine.decide` asks for.

    Raises:
        IntegrityError: a record about this version is not what was filed.
    """
    records = evidence.of_version(connection, view.version)
    gates = {gate: _newest(gate, promotion.policy, view, records) for gate in required(promotion.policy)}
    return Findings(gates, approvals.standing(connection, promotion, now=now))


def _newest(gate: Gate, policy: Policy, view: Scene, known: Sequence[Evidence]) -> Finding:
    records = [record for record in known if record.gate == gate.name and _at_share(record, gate)]
    if not records:
        return Finding(Verdict.MISSING)
    comparative = gate.name in policy.comparative
    usable = [record for record in records if not _objection(record, view, comparative=comparative)]
    if not usable:
        return Finding(
            Verdict.STALE, records[-1].evidence_id, _objection(records[-1], view, comparative=comparative) or ""
        )
    return Finding(Verdict(usable[-1].verdict), usable[-1].evidence_id)


def _at_share(record: Evidence, gate: Gate) -> bool:
    return gate.weight is None or record.method.params.get("weight") == gate.weight


def _objection(record: Evidence, view: Scene, *, comparative: bool) -> str | None:
    """Why a record can't be used; None where it can."""
    if record.asset.digest != view.version.digest:
        return "the evidence speaks of other content than this version's"
    if not comparative:
        return None
    if view.fallen_at is not None and record.started <= view.fallen_at:
        return "the version was rolled back after this comparison; compare again"
    return _wrong_baseline(record, view)


def _wrong_baseline(record: Evidence, view: Scene) -> str | None:
    held, baseline = view.champion, record.baseline
    if held is None:
        if baseline is not None and baseline.name == str(view.version.name):
            return f"compared with {baseline.name}/{baseline.version}, but there is no champion now; compare again"
        return None
    if baseline is None:
        return f"compared with no champion, but {held.ref} is champion; compare again"
    if (baseline.name, baseline.version, baseline.digest) != (str(held.name), held.version, held.digest):
        return f"compared with {baseline.name}/{baseline.version}, but {held.ref} is champion now; compare again"
    return None
