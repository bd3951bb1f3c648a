"""What the references of a task find: parameters, the run, earlier tasks' values, and in handlers the failure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from llmops.core.errors import ConfigError
from llmops.registry.workflow.config import TaskConfig
from llmops.registry.workflow.records import Failure, Run, Task, TaskStatus
from llmops.registry.workflow.references import substitute


def values(tasks: Mapping[str, Task]) -> dict[str, dict[str, JsonValue]]:
    """What the tasks that succeeded gave."""
    return {name: task.values or {} for name, task in tasks.items() if task.status is TaskStatus.SUCCEEDED}


def of(run: Run, tasks: Mapping[str, Task], failure: Failure | None) -> dict[str, JsonValue]:
    """Everything that `${...}` may name now."""
    found: dict[str, Any] = {
        "params": run.params,
        "env": run.catalog,
        "run": {"id": run.run_id, "workflow": run.workflow},
    }
    found |= values(tasks)
    if failure is not None:
        found["failure"] = {key: item for key, item in failure.as_json().items() if key != "exit_code"}
    return found


def settings(task: TaskConfig, scope: Mapping[str, JsonValue], *, lenient: bool) -> dict[str, JsonValue]:
    """The task's `with`, resolved; `lenient`, a setting that refers to what was never given is null.

    Raises:
        ConfigError: a task did not give what a reference names; says where that stands.
    """
    resolved: dict[str, JsonValue] = {}
    for key, value in task.settings.items():
        try:
            resolved[key] = _located(value, scope, f"task `{task.name}`, with.{key}")
        except ConfigError:
            if not lenient:
                raise
            resolved[key] = None
    return resolved


def holds(when: str, scope: Mapping[str, JsonValue]) -> bool:
    """Whether what `when` names is neither false, null, 0 nor empty."""
    return bool(_located(when.strip(), scope, "when"))


def _located(value: JsonValue, scope: Mapping[str, JsonValue], where: str) -> JsonValue:
    try:
        return substitute(value, scope)
    except ConfigError as error:
        raise ConfigError(error.what, where=where, hint=error.hint) from error
