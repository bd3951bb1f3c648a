"""What a promotion would find and do now: the stages of its policy, how each gate stands, and the next change.

Reads, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from llmops.registry.promotion import findings, policies, rows
from llmops.registry.promotion.machine import Finding, Gate, Step, Verdict, Wait, decide, required, stages
from llmops.registry.promotion.policy import Policy
from llmops.registry.promotion.records import Promotion
from llmops.registry.promotion.states import State
from llmops.registry.records import Version


@dataclass(frozen=True)
class Plan:
    """What `promote` would do now: the state, the stages of the policy, how each gate stands, and the next change."""

    version: Version
    state: State
    policy: Policy
    stages: tuple[State, ...]
    gates: dict[Gate, Finding]
    due: Step | Wait

    @property
    def missing(self) -> list[str]:
        """The gates without a usable pass."""
        return [str(gate) for gate, finding in self.gates.items() if finding.verdict is not Verdict.PASS]

    def as_json(self) -> dict[str, Any]:
        """The plan as `llmops promote --plan --json` prints it."""
        due = self.due
        return {
            "name": str(self.version.name),
            "version": self.version.version,
            "state": self.state.value,
            "stages": [stage.value for stage in self.stages],
            "gates": [
                {"gate": str(gate), "verdict": found.verdict.value, "evidence_id": found.evidence_id, "why": found.why}
                for gate, found in self.gates.items()
            ],
            "missing": self.missing,
            "next": {"state": due.to.value, "why": due.why} if isinstance(due, Step) else None,
            "needs": [need.as_json() for need in due.needs] if isinstance(due, Wait) else [],
            "policy": self.policy.as_json(),
        }


def plan(connection: Connection, version: Version, *, now: datetime, actor: str) -> Plan:
    """Look at a version as `promote` would.

    Raises:
        IntegrityError: an evidence record about it is not what was filed.
    """
    known = rows.standing(connection, version.name, version.version)
    promotion = known or _unstarted(version, policies.of(connection, version.name).policy, now, actor)
    found = findings.gather(connection, promotion, findings.scene(connection, promotion), now=now)
    policy = promotion.policy
    gates = {gate: found.of(gate) for gate in required(policy)}
    due = decide(promotion.position, policy, found)
    return Plan(version, promotion.state, policy, stages(policy), gates, due)


def _unstarted(version: Version, policy: Policy, now: datetime, actor: str) -> Promotion:
    """A promotion as `promote` would begin it."""
    return Promotion(
        promotion_id="",
        name=version.name,
        version=version.version,
        digest=version.digest,
        state=State.REGISTERED,
        step=0,
        held_from=None,
        evidence_id=None,
        etag="",
        policy=policy,
        started_at=now,
        started_by=actor,
        changed_at=now,
        changed_by=actor,
    )
