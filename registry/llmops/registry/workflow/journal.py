"""What an engine writes down about its run, each step in one transaction, only while the run is its own.

Waits out a database that is locked or away: what a task gave lies in its outcome file meanwhile. Knows rows, not
processes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, func, insert, select, update

from llmops.core.errors import ConflictError, UnavailableError
from llmops.core.sql import Sql
from llmops.registry.workflow import runs, tables
from llmops.registry.workflow.notify import outbox
from llmops.registry.workflow.records import Failure, Run, RunStatus, Task, TaskStatus
from llmops.registry.workflow.runs import ATTEMPTS, LEASE_S, RUNS, TASKS

PATIENCE_S = 300.0
_log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Ended:
    """How an attempt ended, as it is written down."""

    result: str
    """succeeded, waiting, failed, interrupted or cancelled."""
    duration_s: float = 0.0
    exit: int | None = None
    values: dict[str, Any] | None = None
    failure: Failure | None = None
    reason: str | None = None
    wake_at: datetime | None = None
    wake_on: str | None = None


class Journal:
    """The rows of one run, held by one engine's token."""

    def __init__(self, sql: Sql, run: Run, token: str, place: str, *, patience_s: float = PATIENCE_S) -> None:
        self._sql = sql
        self._run = run
        self._token = token
        self._place = place
        self._patience_s = patience_s

    def tasks(self) -> list[Task]:
        with self._sql.read() as connection:
            return runs.tasks(connection, self._run.run_id)

    def renew(self) -> str | None:
        """Keep the run for a while longer; gives who wants it cancelled.

        Raises:
            ConflictError: another engine has it.
        """

        def step(connection: Connection) -> str | None:
            return runs.find(connection, self._run.run_id).cancelled_by

        return self._write(step)

    def begin(self, task: str, attempt: int, log: str) -> None:
        """An attempt starts."""

        def step(connection: Connection) -> None:
            now = datetime.now(UTC)
            self._task(
                connection,
                task,
                status=TaskStatus.RUNNING,
                attempts=attempt,
                started_at=now,
                ended_at=None,
                log=log,
                reason=None,
            )
            values = {"run_id": self._run.run_id, "task": task, "attempt": attempt, "place": self._place}
            row = (ATTEMPTS.run_id == self._run.run_id) & (ATTEMPTS.task == task) & (ATTEMPTS.attempt == attempt)
            if connection.execute(tables.attempts.select().where(row)).first() is None:
                connection.execute(insert(tables.attempts).values(**values, result="running", started_at=now))

        self._write(step)

    def end(self, task: Task, ended: Ended, status: TaskStatus, *, promoted: bool = False) -> None:
        """An attempt has ended, and its task stands so now; values are durable when this returns."""

        def step(connection: Connection) -> None:
            now = datetime.now(UTC)
            row = (ATTEMPTS.run_id == self._run.run_id) & (ATTEMPTS.task == task.task)
            connection.execute(
                update(tables.attempts)
                .where(row, ATTEMPTS.attempt == task.attempts)
                .values(
                    result=ended.result,
                    ended_at=now,
                    duration_s=ended.duration_s,
                    exit=ended.exit,
                    error=ended.failure.as_json() if ended.failure else None,
                )
            )
            waits = status is TaskStatus.WAITING
            self._task(
                connection,
                task.task,
                status=status,
                outputs=ended.values,
                error=ended.failure.as_json() if ended.failure and status is TaskStatus.FAILED else None,
                failures=task.failures + (ended.result == "failed"),
                interruptions=task.interruptions + (ended.result == "interrupted"),
                reason=ended.reason if waits else None,
                waiting_since=(task.waiting_since or now) if waits else None,
                wake_at=ended.wake_at if waits else None,
                wake_on=ended.wake_on if waits else None,
                ended_at=None if waits or status is TaskStatus.PENDING else now,
                duration_s=(task.duration_s or 0.0) + ended.duration_s,
            )
            if promoted:
                outbox.tell(connection, self._run, "promoted", {"task": task.task, "values": ended.values})

        self._write(step)

    def mark(self, names: Iterable[str], status: TaskStatus, reason: str | None = None) -> None:
        """Tasks stand so without an attempt: skipped, or to be asked again."""

        def step(connection: Connection) -> None:
            for name in names:
                self._task(connection, name, status=status, reason=reason)

        self._write(step)

    def close(
        self,
        status: RunStatus,
        active_s: float,
        *,
        failure: Failure | None = None,
        reason: str | None = None,
    ) -> Run:
        """Give the run up: over, parked, or left for another engine (RUNNING)."""

        def step(connection: Connection) -> Run:
            earliest = select(func.min(TASKS.wake_at)).where(
                TASKS.run_id == self._run.run_id, TASKS.status == TaskStatus.WAITING
            )
            change: dict[str, Any] = {
                "status": status,
                "active_s": self._run.active_s + active_s,
                "wake_at": connection.execute(earliest).scalar() if status is RunStatus.WAITING else None,
                "reason": reason,
                "lease": None,
                "error": failure.as_json() if failure else None,
            }
            if status.over:
                change["ended_at"] = datetime.now(UTC)
            connection.execute(update(tables.runs).where(RUNS.run_id == self._run.run_id).values(change))
            if status is not RunStatus.RUNNING and not (status is RunStatus.WAITING and reason == self._run.reason):
                details = {"task": failure.task if failure else None, "error": change["error"], "reason": reason}
                outbox.tell(connection, self._run, status.value, details)
            return runs.find(connection, self._run.run_id)

        return self._write(step)

    def _task(self, connection: Connection, task: str, **change: Any) -> None:
        row = (TASKS.run_id == self._run.run_id) & (TASKS.task == task)
        connection.execute(update(tables.tasks).where(row).values(change))

    def _write(self, step: Callable[[Connection], Result]) -> Result:
        """One transaction, tried again while the database does not answer; each step may be repeated."""
        give_up, pause = time.monotonic() + self._patience_s, 0.1
        while True:
            try:
                with self._sql.begin() as connection:
                    self._fence(connection)
                    return step(connection)
            except UnavailableError as error:
                if time.monotonic() > give_up:
                    raise
                _log.warning("the run %s waits for the database: %s", self._run.run_id, error.what)
                time.sleep(pause)
                pause = min(2 * pause, 2.0)

    def _fence(self, connection: Connection) -> None:
        until = runs.moment(connection) + timedelta(seconds=LEASE_S)
        ours = (RUNS.run_id == self._run.run_id) & (RUNS.lease == self._token)
        if connection.execute(update(tables.runs).where(ours).values(lease_until=until)).rowcount != 1:
            raise ConflictError("another engine has taken this run over", where=self._run.run_id, code="lease_lost")
