"""Declared tasks that pass values, run once each, survive kills, wait for people, and start by hand, time or alert.

A task is any function; what validates, promotes or ingests is other rooms'. This one knows order, processes and rows.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmops.registry.workflow.context import TaskContext, Waiting

if TYPE_CHECKING:
    from llmops.registry.workflow.config import WorkflowConfig
    from llmops.registry.workflow.door import Workflows
    from llmops.registry.workflow.engine import Engine, Progress
    from llmops.registry.workflow.job import Job, load_job
    from llmops.registry.workflow.records import Cause, Failure, Run, RunStatus, Task, TaskStatus

_HOMES = {
    "WorkflowConfig": "config",
    "Workflows": "door",
    **dict.fromkeys(("Engine", "Progress"), "engine"),
    **dict.fromkeys(("Job", "load_job"), "job"),
    **dict.fromkeys(("Cause", "Failure", "Run", "RunStatus", "Task", "TaskStatus"), "records"),
}

__all__ = [
    "Cause",
    "Engine",
    "Failure",
    "Job",
    "Progress",
    "Run",
    "RunStatus",
    "Task",
    "TaskContext",
    "TaskStatus",
    "Waiting",
    "WorkflowConfig",
    "Workflows",
    "load_job",
]


def __getattr__(name: str) -> Any:
    """The rest, when first asked for: a task's process imports neither SQLAlchemy nor the engine."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
