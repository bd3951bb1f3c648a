"""The workflow's door: start, run, look at, resume, cancel and wake runs.

Knows which room does what. Whoever holds one of these may do so for its principal.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import JsonValue

from llmops.core.errors import ConflictError
from llmops.core.identity import LOCAL, Principal
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig
from llmops.registry.audit import Audit
from llmops.registry.workflow import runs, targets
from llmops.registry.workflow.engine import Engine, Watch, folder_of
from llmops.registry.workflow.job import Job
from llmops.registry.workflow.records import Cause, Run, RunStatus, Task, config_hash
from llmops.registry.workflow.runs import Order


class Workflows:
    """Runs of workflows in one state. Thread-safe; close it, or use it as a context manager."""

    def __init__(self, state: StateConfig, *, principal: Principal = LOCAL) -> None:
        self._state = state
        self.principal = principal
        self.sql: Sql = open_sql(state)

    def __enter__(self) -> Workflows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sql.close()

    @contextmanager
    def auditing(self) -> Iterator[Audit]:
        """The audit log of this state."""
        audit = Audit(self.sql, self._state)
        try:
            yield audit
        finally:
            audit.close()

    def engine(self, watch: Watch = lambda _: None) -> Engine:
        """What runs runs."""
        return Engine(self.sql, self._state, watch=watch)

    def start(self, job: Job, *, params: Mapping[str, JsonValue] | None = None, cause: Cause | None = None) -> Run:
        """Put a run of this job into the queue; a cause whose key was used before gives the run it started then.

        Raises:
            ConfigError: a parameter is missing or wrong, or a task's module is not there.
        """
        bound = job.params(params)
        for task in (*job.config.tasks, *job.config.on_failure):
            targets.require(targets.target(task.name, task.run))
        order = Order(job.config, bound, job.file, cause or Cause(), self.principal)
        with self.sql.begin() as connection:
            return runs.create(connection, order)

    def start_or_resume(self, job: Job, *, cause: Cause | None = None) -> Run:
        """The unfinished run that does just this, where there is one; else a new one.

        Raises:
            ConflictError: an unfinished run of other settings stands in the way, and nothing runs it.
        """
        if cause is not None and cause.key is not None:
            return self.start(job, cause=cause)
        wanted = config_hash(job.config.model_dump(mode="json", exclude_defaults=True), job.params())
        with self.sql.read() as connection:
            open_ = runs.unfinished(connection, job.config.name)
        same = [run for run in open_ if config_hash(run.config, run.params) == wanted and run.cause.means == "manual"]
        if same:
            return same[0]
        for run in open_:
            if run.interrupted and len(open_) >= job.config.max_concurrent_runs:
                raise ConflictError(
                    f"an interrupted run of `{run.workflow}` with other settings is unfinished",
                    where=run.run_id,
                    hint=f"`llmops workflow resume {run.run_id}` or `llmops workflow cancel {run.run_id}`",
                )
        return self.start(job, cause=cause)

    def show(self, run_id: str) -> tuple[Run, builtins.list[Task]]:
        """A run, by its id or the beginning of it, and its tasks.

        Raises:
            NotFoundError: there is none.
        """
        with self.sql.read() as connection:
            run = runs.find(connection, run_id)
            return run, runs.tasks(connection, run.run_id)

    def list(self, workflow: str | None = None, *, limit: int = 50) -> builtins.list[Run]:
        """Runs, newest first.

        Raises:
            NotFoundError: no such workflow has ever run.
        """
        with self.sql.read() as connection:
            if workflow is not None:
                runs.require_workflow(connection, workflow)
            return runs.list_(connection, workflow, limit=limit)

    def blocker(self, run: Run) -> Run | None:
        """The run that a queued one waits for; None where it is its turn."""
        with self.sql.read() as connection:
            return runs.blocker(connection, run) if run.status is RunStatus.QUEUED else None

    def cancel(self, run_id: str) -> Run:
        """End a run; the engine that runs it does so within seconds.

        Raises:
            UserError: it is over.
        """
        with self.sql.begin() as connection:
            return runs.cancel(connection, run_id, self.principal)

    def repair(self, run_id: str) -> Run:
        """Put a run that failed or was cancelled back into the queue; what succeeded is kept. Others stay as they are.

        Raises:
            UserError: it succeeded, or a gate refused it.
        """
        with self.sql.begin() as connection:
            return runs.repair(connection, run_id)

    def wake(self, on: str) -> builtins.list[str]:
        """End the wait of every task that waits for `on`; gives the runs that go on."""
        with self.sql.begin() as connection:
            return runs.wake(connection, on)

    def log(self, task: Task) -> Path | None:
        """Where the output of a task's last attempt is kept."""
        return None if task.log is None else self._state.root / task.log

    def folder(self, run: Run) -> Path:
        """Where a run keeps its files."""
        return folder_of(self._state, run.run_id)
