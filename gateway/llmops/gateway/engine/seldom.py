"""What most requests do not have: ids and tags of the caller's own, an arm of an experiment, a timer, findings.

Knows names and defaults only. Requests without any of it share one object, so that they pay nothing for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from llmops.gateway.calls import Json, Meter, Reply
from llmops.gateway.engine.plan import Target
from llmops.gateway.guard import Verdict
from llmops.gateway.spans import Trace


@dataclass(slots=True)
class Seldom:
    """One request's own; `call.own()` makes it."""

    client_id: str | None = None
    parent_id: str | None = None
    trace: Trace | None = None
    session: str | None = None
    user: str | None = None
    unit: str | None = None
    arm: str | None = None
    propensity: float = 1.0
    tags: dict[str, str] | None = None
    findings: tuple[str, ...] = ()
    cached: str | None = None
    waited_s: float = 0.0
    unresolved: Verdict | None = None
    guest: tuple[Meter, ...] = ()
    kept: tuple[Reply, Target] | None = None
    timer: asyncio.TimerHandle | None = None
    chat: Json | None = None


USUAL: Final = Seldom()
"""Of all requests that have nothing of this; never written to (in the tests it refuses)."""
