"""The states of a promotion and the edges between them: one machine for every kind of asset.

Knows the shape of the way only. Which stages a version must pass is its `Policy`; what was found, the evidence.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a version stands on its way to users."""

    REGISTERED = "registered"
    VALIDATING = "validating"
    REJECTED = "rejected"
    VALIDATED = "validated"
    AWAITING_APPROVAL = "awaiting_approval"
    DENIED = "denied"
    APPROVED = "approved"
    READY_TESTING = "ready_testing"
    NOT_READY = "not_ready"
    READY = "ready"
    SHADOW = "shadow"
    CANARY = "canary"
    ROLLED_BACK = "rolled_back"
    HELD = "held"
    PROMOTED = "promoted"
    RETIRED = "retired"
    WITHDRAWN = "withdrawn"

    @property
    def phrase(self) -> str:
        """The state in a sentence."""
        return self.value.replace("_", " ")


LIVE = frozenset({State.SHADOW, State.CANARY})
"""The version meets traffic: it leaves on a failure by ROLLED_BACK, not by REJECTED."""

FAILED = frozenset({State.REJECTED, State.DENIED, State.NOT_READY, State.ROLLED_BACK})
STOPPED = FAILED | {State.WITHDRAWN}
"""A gate, a group or its own side said no: only a promotion begun anew leads on from here."""

ENDED = STOPPED | {State.PROMOTED, State.RETIRED}
"""Nothing moves these but another promotion or a rollback."""

_WITHDRAWN = frozenset({State.WITHDRAWN})  # from wherever it waits
_ONWARD = frozenset({State.AWAITING_APPROVAL, State.READY_TESTING, State.SHADOW, State.CANARY, State.PROMOTED})
_OFFLINE_ENDS = frozenset({State.REJECTED, State.HELD})
_LIVE_ENDS = frozenset({State.ROLLED_BACK, State.HELD, State.AWAITING_APPROVAL})

_FORWARD: dict[State, frozenset[State]] = {
    State.REGISTERED: frozenset({State.VALIDATING}),
    State.VALIDATING: frozenset({State.VALIDATED}) | _OFFLINE_ENDS,
    State.VALIDATED: _ONWARD | _OFFLINE_ENDS,
    State.AWAITING_APPROVAL: frozenset({State.APPROVED, State.DENIED}),
    State.APPROVED: _ONWARD | _OFFLINE_ENDS,
    State.READY_TESTING: frozenset({State.READY, State.NOT_READY, State.HELD, State.AWAITING_APPROVAL}),
    State.READY: (_ONWARD | _OFFLINE_ENDS) - {State.READY_TESTING},
    State.SHADOW: frozenset({State.CANARY, State.PROMOTED}) | _LIVE_ENDS,
    State.CANARY: frozenset({State.CANARY, State.PROMOTED}) | _LIVE_ENDS,
    State.HELD: frozenset(
        {
            State.VALIDATING,
            State.VALIDATED,
            State.APPROVED,
            State.READY_TESTING,
            State.READY,
            State.SHADOW,
            State.CANARY,
            State.AWAITING_APPROVAL,
        }
    ),
}

EDGES: dict[State, frozenset[State]] = {
    **{state: onward | _WITHDRAWN for state, onward in _FORWARD.items()},
    State.PROMOTED: frozenset({State.RETIRED, State.ROLLED_BACK}),
    State.RETIRED: frozenset({State.PROMOTED}),  # a rollback brings it back
    **dict.fromkeys(STOPPED, frozenset[State]()),
}
"""Every change of state there is. A step of a canary is an edge from CANARY to itself."""
