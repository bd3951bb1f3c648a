"""The one way to users: states, gates, approvals, champion and back, for every kind of asset alike.

Promotion decides on evidence that others filed; it runs no gate, trains nothing and serves nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmops.registry.promotion.endings import Retirement
    from llmops.registry.promotion.history import Entry, Reign
    from llmops.registry.promotion.planning import Plan
    from llmops.registry.promotion.policy import Policy
    from llmops.registry.promotion.promoter import Promoter
    from llmops.registry.promotion.records import Approval, Promotion
    from llmops.registry.promotion.rollback import Rollback
    from llmops.registry.promotion.states import State

_HOMES = {
    "Approval": "records",
    "Entry": "history",
    "Plan": "planning",
    "Policy": "policy",
    "Promoter": "promoter",
    "Promotion": "records",
    "Reign": "history",
    "Retirement": "endings",
    "Rollback": "rollback",
    "State": "states",
}

__all__ = ["Approval", "Entry", "Plan", "Policy", "Promoter", "Promotion", "Reign", "Retirement", "Rollback", "State"]


def __getattr__(name: str) -> Any:
    """The public names, from their modules when first asked for: a policy can be read without SQLAlchemy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
