"""Workflow files, and runs of them, for tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import yaml

from llmops.core.identity import LOCAL, Principal
from llmops.core.state import StateConfig
from llmops.registry.workflow import Job, Run, Task, Workflows, engine, load_job

HERE = "tests.support.workflow_tasks"


def task(name: str, function: str = "echo", **more: Any) -> dict[str, Any]:
    """One task that runs a function of `workflow_tasks`."""
    settings = {"with": more.pop("given")} if "given" in more else {}
    return {"name": name, "run": f"{HERE}:{function}", "retry_wait_s": 0, "grace_s": 0.2, **settings, **more}


def write(folder: Path, tasks: list[dict[str, Any]], *, state: StateConfig | None = None, **more: Any) -> Path:
    """A workflow's file."""
    place = folder / f"{more.get('name', 'flow')}.yaml"
    section = {"state": state.model_dump(mode="json", exclude_none=True)} if state else {}
    place.write_text(yaml.safe_dump({"job": "workflow", "name": "flow", **section, "tasks": tasks, **more}))
    return place


def job(folder: Path, tasks: list[dict[str, Any]], overrides: tuple[str, ...] = (), **more: Any) -> Job:
    return load_job(write(folder, tasks, **more), overrides)


def carry(state: StateConfig, run_id: str, most_interruptions: int = engine.MOST_INTERRUPTIONS) -> None:
    """An engine's whole life, for a process of its own: a fork server may be older than what its tasks have to find."""
    engine.MOST_INTERRUPTIONS = most_interruptions
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    with Workflows(state) as flows:
        flows.engine().carry(run_id)


class Bench:
    """Runs workflows in one state, in this process."""

    def __init__(self, folder: Path, state: StateConfig, principal: Principal = LOCAL) -> None:
        self.folder = folder
        self.state = state
        self.flows = Workflows(state, principal=principal)
        self.notes = folder / "notes"

    def job(self, tasks: list[dict[str, Any]], overrides: tuple[str, ...] = (), **more: Any) -> Job:
        return job(self.folder, tasks, overrides, state=self.state, **more)

    def run(
        self, tasks: list[dict[str, Any]], overrides: tuple[str, ...] = (), **more: Any
    ) -> tuple[Run, dict[str, Task]]:
        """Start a run and carry it as far as it goes."""
        return self.carry(self.flows.start(self.job(tasks, overrides, **more)).run_id)

    def carry(self, run_id: str) -> tuple[Run, dict[str, Task]]:
        self.flows.engine().carry(run_id)
        return self.shown(run_id)

    def shown(self, run_id: str) -> tuple[Run, dict[str, Task]]:
        run, tasks = self.flows.show(run_id)
        return run, {one.task: one for one in tasks}

    def log(self, one: Task) -> str:
        place = self.flows.log(one)
        assert place is not None
        return place.read_text()

    def began(self) -> list[str]:
        """`task attempt` of everything that really began, in order."""
        if not self.notes.exists():
            return []
        return [" ".join(line.split()[:2]) for line in self.notes.read_text().splitlines()]

    def given(self, **more: Any) -> dict[str, Any]:
        """`with:` of a task that leaves a note."""
        return {"notes": str(self.notes), **more}
