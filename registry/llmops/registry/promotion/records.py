"""Promotions in plain values: where one stands, the steps it took, who approved, and what it waits for.

Knows no database.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from llmops.core.names import Name, Ref
from llmops.registry.promotion.machine import Need, Position
from llmops.registry.promotion.policy import Policy
from llmops.registry.promotion.states import ENDED, STOPPED, State


@dataclass(frozen=True)
class Promotion:
    """One version on its way to users. `needs` is what it waits for, as far as whoever gave it looked."""

    promotion_id: str
    name: Name
    version: int
    digest: str
    state: State
    step: int
    held_from: State | None
    evidence_id: str | None
    etag: str
    policy: Policy
    started_at: datetime
    started_by: str
    changed_at: datetime
    changed_by: str
    needs: tuple[Need, ...] = ()
    why: str = field(default="", compare=False)

    @property
    def ref(self) -> Ref:
        return Ref(self.name, version=self.version)

    @property
    def position(self) -> Position:
        return Position(self.state, self.step, self.held_from, self.evidence_id)

    @property
    def ended(self) -> bool:
        """Whether nothing but another promotion or a rollback moves it."""
        return self.state in ENDED

    @property
    def refused(self) -> bool:
        """Whether a gate, a group or its own side said no, a gate could not say yes, or one was not asked."""
        return self.state in STOPPED or self.state is State.HELD or any(need.group is None for need in self.needs)

    def waiting(self, needs: tuple[Need, ...]) -> Promotion:
        return replace(self, needs=needs)

    def as_json(self) -> dict[str, Any]:
        """The promotion as `llmops rollout status --json` prints it."""
        return {
            "promotion_id": self.promotion_id,
            "name": str(self.name),
            "version": self.version,
            "digest": self.digest,
            "state": self.state.value,
            "step": self.step,
            "share": self.policy.canary[self.step] if self.state is State.CANARY else None,
            "held_from": self.held_from.value if self.held_from else None,
            "why": self.why,
            "evidence_id": self.evidence_id,
            "needs": [need.as_json() for need in self.needs],
            "policy": self.policy.as_json(),
            "started_at": self.started_at.isoformat(),
            "started_by": self.started_by,
            "changed_at": self.changed_at.isoformat(),
            "changed_by": self.changed_by,
        }


@dataclass(frozen=True)
class Taken:
    """One step that a promotion took."""

    step_id: str
    promotion_id: str
    version: int
    before: State
    after: State
    step: int
    evidence: tuple[str, ...]
    why: str
    at: datetime
    by: str


@dataclass(frozen=True)
class Approval:
    """What one person said for one group about one promotion."""

    approval_id: str
    promotion_id: str
    version: int
    group: str
    decision: str
    comment: str
    at: datetime
    by: str
