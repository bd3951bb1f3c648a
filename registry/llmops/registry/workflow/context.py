"""What a task is handed, and what it may answer besides values. The only module that a task's author imports.

A task is `def task(context: TaskContext) -> Mapping[str, JsonValue] | Waiting | None`. It runs in a process of its own.
To fail for good it raises `GateFailedError` (a check said no) or a `UserError`; whatever else it raises is tried again
as often as the configuration says. Knows nothing of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from llmops.core.identity import Principal
from llmops.core.state import StateConfig

if TYPE_CHECKING:
    from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class TaskContext:
    """One attempt at one task of one run."""

    run_id: str
    workflow: str
    task: str
    attempt: int
    """1, 2, ...; an attempt that was interrupted counts too."""
    settings: Mapping[str, JsonValue]
    """The task's `with:` after substitution."""
    values: Mapping[str, Mapping[str, JsonValue]]
    """What earlier tasks gave, by task name."""
    catalog: str
    state: StateConfig
    principal: Principal
    """Who asked for the run."""

    @property
    def token(self) -> str:
        """The same for every attempt: pass it on to whatever must happen once."""
        return f"{self.run_id}/{self.task}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The answer of a task that cannot go on yet: the run is parked, without a process, and the task is asked again.

    Attributes:
        reason: what it waits for, in words for people.
        until: not before this moment; None: as soon as `on` happens, or within a minute or so.
        on: a word for what it waits for; `Workflows.wake` with the same word ends the wait at once.
    """

    reason: str
    until: datetime | None = None
    on: str | None = None
