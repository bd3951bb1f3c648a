"""What the pages of workflow runs show: all runs; one with its tasks, their states, times, attempts, ends of logs.

A run belongs to its catalog: whoever may not browse that does not see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup
from pydantic import ValidationError

from llmops.core.errors import NotFoundError
from llmops.core.web.graphs import Step, step_graph
from llmops.core.web.pages import seconds
from llmops.registry.access import Privilege
from llmops.registry.workflow import Run, Task, Workflows
from llmops.registry.workflow.config import WorkflowConfig
from llmops.registry.workflow.graph import needs_of
from llmops.registry.workflow.logfile import last_lines
from llmops.serving.registry_pages.desk import Asked

RUNS: Final = 50
LOG_LINES: Final = 40
_MOST_RUNS = 1000
_GRADES = {"succeeded": "good", "failed": "bad", "cancelled": "bad", "interrupted": "bad", "waiting": "wait"}


@dataclass(frozen=True)
class RunList:
    runs: list[Run]
    workflow: str
    full: bool

    def as_json(self) -> dict[str, Any]:
        return {"runs": [run.as_json() for run in self.runs]}


def run_list(asked: Asked) -> RunList:
    """The newest runs, of one workflow where the address says so.

    Raises:
        NotFoundError: it never ran.
    """
    workflow, most = asked.word("workflow"), asked.number("runs", RUNS, _MOST_RUNS)
    found = _workflows(asked).list(workflow or None, limit=most)
    return RunList([run for run in found if _sees(asked, run)], workflow, len(found) == most)


@dataclass(frozen=True)
class TaskLine:
    """One task, whom it needs, and the end of what its last attempt printed."""

    task: Task
    needs: tuple[str, ...]
    log: list[str]

    @property
    def note(self) -> str:
        """Its state in the words of the graph."""
        parts = [self.task.status.value]
        if self.task.duration_s is not None:
            parts.append(seconds(self.task.duration_s))
        if self.task.attempts > 1:
            parts.append(f"attempt {self.task.attempts}")
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        return self.task.as_json() | {"needs": list(self.needs), "log_end": self.log}


@dataclass(frozen=True)
class RunPage:
    run: Run
    tasks: list[TaskLine]
    blocker: Run | None

    @property
    def graph(self) -> Markup:
        steps = [
            Step(line.task.task, line.note, _GRADES.get(line.task.status.value, "off"), f"#task-{line.task.task}",
                 line.needs)
            for line in self.tasks
            if not line.task.handler or line.task.attempts
        ]  # fmt: skip
        return step_graph(f"Tasks of {self.run.workflow}", steps)

    def as_json(self) -> dict[str, Any]:
        return self.run.as_json() | {"tasks": [line.as_json() for line in self.tasks]}


def run_page(asked: Asked) -> RunPage:
    """One run by its id or the beginning of it.

    Raises:
        NotFoundError: there is none that may be known of.
    """
    workflows = _workflows(asked)
    run, tasks = workflows.show(asked.params["run_id"])
    if not _sees(asked, run):
        raise NotFoundError(f"no run `{asked.params['run_id'][:64]}`")
    needs = _needs(run)
    lines = []
    for task in sorted(tasks, key=lambda task: task.position):
        path = workflows.log(task)
        lines.append(TaskLine(task, needs.get(task.task, ()), last_lines(path, LOG_LINES) if path else []))
    return RunPage(run, lines, workflows.blocker(run))


def grade(status: str) -> str:
    """The class by which a state of a run or task is marked, beside its word."""
    return f"state-{_GRADES.get(status, 'off')}"


def _workflows(asked: Asked) -> Workflows:
    if asked.workflows is None:
        raise NotFoundError("no workflows are kept here")
    return asked.workflows


def _sees(asked: Asked, run: Run) -> bool:
    with asked.registry.sql.read() as connection:
        return asked.registry.authority.allows(connection, Privilege.BROWSE, run.catalog)


def _needs(run: Run) -> dict[str, tuple[str, ...]]:
    """Who needs whom, by the configuration that the run was started with; nothing where that is no longer readable."""
    try:
        return needs_of(WorkflowConfig.model_validate(run.config).tasks)
    except ValidationError:
        return {}
