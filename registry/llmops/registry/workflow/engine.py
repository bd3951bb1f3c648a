"""Carries one run from where it stands to its end, or to where it must wait.

What has succeeded is never run again: it is read from the rows, or from the outcome file of an attempt whose engine
was killed. Decides which task is next; `attempt` runs it, `journal` writes down what came of it.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from llmops.core.errors import ConfigError, LlmopsError
from llmops.core.files import exclusive_lock
from llmops.core.ids import new_id
from llmops.core.secret import resolve_secret
from llmops.core.sql import Sql
from llmops.core.state import StateConfig
from llmops.registry.workflow import runs, scope, targets
from llmops.registry.workflow.attempt import Answer, Attempt, Files, end_leftover, recover
from llmops.registry.workflow.config import TaskConfig, WorkflowConfig
from llmops.registry.workflow.graph import needs_of
from llmops.registry.workflow.journal import Ended, Journal
from llmops.registry.workflow.logfile import Redactor
from llmops.registry.workflow.notify.courier import Courier
from llmops.registry.workflow.records import Failure, Run, RunStatus, Task, TaskStatus

RENEW_S = 1.0
"""How often the lease is renewed and a wish to cancel is seen."""
MOST_INTERRUPTIONS = 5
_LONGEST_PAUSE_S = 600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How a run stands, told at every change."""

    run: Run
    tasks: tuple[Task, ...]


Watch = Callable[[Progress], None]


class Engine:
    """Runs runs: any number in threads of their own. `stop` ends all of them; they are resumed later."""

    def __init__(self, sql: Sql, state: StateConfig, *, watch: Watch = lambda _: None) -> None:
        self._sql = sql
        self._state = state
        self._watch = watch
        self._stop = threading.Event()

    def stop(self) -> None:
        """End the tasks under way; their runs stay unfinished, to be resumed."""
        self._stop.set()

    def carry(self, run_id: str, *, ask: bool = True) -> Run:
        """Take a run as far as it goes; gives it as it then stands, QUEUED where it is not its turn.

        Args:
            ask: ask every waiting task again; else only those whose time has come.

        Raises:
            ConflictError: another engine runs it.
        """
        with self._sql.read() as connection:
            run_id = runs.find(connection, run_id).run_id
        folder = folder_of(self._state, run_id)
        with exclusive_lock(folder / "lock", what=f"running `{run_id}`"):
            token, place = new_id(), place_of(self._state)
            with self._sql.begin() as connection:
                run = runs.claim(connection, run_id, token, place)
            if run is None:
                with self._sql.read() as connection:
                    return runs.find(connection, run_id)
            journal = Journal(self._sql, run, token, place)
            with self._couriers(run):
                return _Ride(run, journal, self._state, self._stop, self._watch).go(ask)

    @contextmanager
    def _couriers(self, run: Run) -> Iterator[None]:
        if not run.config.get("notify"):
            yield
            return
        with Courier(self._sql):
            yield


def folder_of(state: StateConfig, run_id: str) -> Path:
    """Where a run keeps its logs and what its attempts leave."""
    return state.root / "workflow" / run_id


def place_of(state: StateConfig) -> str:
    """The host and state folder whose lock files guard a run."""
    return f"{socket.gethostname()}:{state.root}"


class _Ride:
    """One engine's time with one run."""

    def __init__(self, run: Run, journal: Journal, state: StateConfig, stop: threading.Event, watch: Watch) -> None:
        self._run = run
        self._config = WorkflowConfig.model_validate(run.config)
        self._journal = journal
        self._state = state
        self._stop = stop
        self._watch = watch
        self._folder = folder_of(state, run.run_id)
        self._needs = needs_of(self._config.tasks)
        self._redactor = Redactor(_secrets(run.config))
        self._not_before: dict[str, float] = {}
        self._ends = threading.Event()  # this run's tasks are to end: cancelled, stopped, or lost
        self._cancelled_by: str | None = None
        self._begun = time.monotonic()
        self._renewed = float("-inf")
        self._tasks: dict[str, Task] = {}

    def go(self, ask: bool) -> Run:
        """To the end, or to where it must wait."""
        self._reload()
        self._pick_up(ask)
        pool = ThreadPoolExecutor(self._config.max_parallel, thread_name_prefix=f"run-{self._run.run_id[-6:]}")
        under_way: dict[Future[Answer], str] = {}
        try:
            while True:
                self._renew()
                for task in self._ready(len(under_way)):
                    if attempt := self._prepared(task):
                        under_way[pool.submit(attempt.run, self._ends)] = task.name
                if not under_way and not self._pausing():
                    break
                done, _ = wait(under_way, timeout=0.2, return_when=FIRST_COMPLETED)
                if not under_way:
                    self._ends.wait(0.05)
                for future in done:
                    self._settle(under_way.pop(future), future)
            return self._end()
        finally:
            self._ends.set()
            pool.shutdown(wait=True)

    def _reload(self) -> None:
        self._tasks = {task.task: task for task in self._journal.tasks()}
        self._watch(Progress(self._run, tuple(self._tasks.values())))

    def _renew(self) -> None:
        if self._stop.is_set():
            self._ends.set()
        if time.monotonic() - self._renewed < RENEW_S:
            return
        self._cancelled_by = self._journal.renew()
        self._renewed = time.monotonic()
        if self._cancelled_by is not None:
            self._ends.set()

    def _pick_up(self, ask: bool) -> None:
        """Take what an engine before us left: answers that were given, attempts that were cut, tasks that waited."""
        for task in list(self._tasks.values()):
            if task.status is TaskStatus.RUNNING:
                files = Files(self._folder, task.task, task.attempts)
                end_leftover(files)
                self._conclude(task, recover(files, self._redactor) or Answer(Ended("interrupted")))
        now = datetime.now(UTC)
        asked = [
            one.task for one in self._tasks.values() if one.status is TaskStatus.WAITING and (ask or _is_due(one, now))
        ]
        if asked:
            self._journal.mark(asked, TaskStatus.PENDING)
        self._reload()

    def _ready(self, under_way: int) -> list[TaskConfig]:
        """The tasks that may start now; what depends on a skipped one is skipped on the way."""
        if self._ends.is_set():
            return []
        if self._failed():
            return self._next_handler(under_way)
        self._skip_followers()
        found = []
        for task in self._config.tasks:
            stands = self._tasks[task.name]
            free = all(self._tasks[need].status is TaskStatus.SUCCEEDED for need in self._needs[task.name])
            rested = time.monotonic() >= self._not_before.get(task.name, 0.0)
            if stands.status is TaskStatus.PENDING and free and rested:
                found.append(task)
        return found[: max(0, self._config.max_parallel - under_way)]

    def _next_handler(self, under_way: int) -> list[TaskConfig]:
        """After a failure nothing new starts; once all is quiet the handlers run, one by one."""
        if under_way:
            return []
        for task in self._config.on_failure:
            if self._tasks[task.name].status is TaskStatus.PENDING:
                rested = time.monotonic() >= self._not_before.get(task.name, 0.0)
                return [task] if rested else []
        return []

    def _pausing(self) -> bool:
        """Whether a retry is to come for which there is nothing to do but wait."""
        if self._ends.is_set():
            return False
        return any(
            self._tasks[name].status is TaskStatus.PENDING
            and time.monotonic() < at
            and (not self._failed() or self._tasks[name].handler)
            for name, at in self._not_before.items()
        )

    def _skip_followers(self) -> None:
        followers = [
            name
            for name, needs in self._needs.items()
            if self._tasks[name].status is TaskStatus.PENDING
            and any(self._tasks[need].status is TaskStatus.SKIPPED for need in needs)
        ]
        if followers:
            self._journal.mark(followers, TaskStatus.SKIPPED, "a task it needs was skipped")
            self._reload()
            self._skip_followers()

    def _prepared(self, task: TaskConfig) -> Attempt | None:
        """What it takes to run the task now; None where it is skipped, or its settings do not resolve."""
        stands = self._tasks[task.name]
        number = stands.attempts + 1
        files = Files(self._folder, task.name, number)
        given = scope.of(self._run, self._tasks, self._failed())
        try:
            if task.when is not None and not scope.holds(task.when, given):
                self._journal.mark([task.name], TaskStatus.SKIPPED, f"`{task.when}` does not hold")
                self._reload()
                return None
            settings = scope.settings(task, given, lenient=stands.handler)
            self._journal.begin(task.name, number, str(files.log.relative_to(self._state.root)))
            target = targets.target(task.name, task.run)
        except ConfigError as error:
            self._journal.begin(task.name, number, str(files.log.relative_to(self._state.root)))
            self._reload()
            self._conclude(self._tasks[task.name], Answer(Ended("failed", failure=Failure.of(error))))
            return None
        self._reload()
        principal = self._run.requested_by
        request = {
            "target": target,
            "run_id": self._run.run_id,
            "workflow": self._run.workflow,
            "task": task.name,
            "attempt": number,
            "settings": settings,
            "values": scope.values(self._tasks),
            "catalog": self._run.catalog,
            "state": self._config.state.model_dump(mode="json") | {"dir": str(self._state.root)},
            "principal": {"id": principal.id, "kind": principal.kind, "groups": sorted(principal.groups)},
        }
        return Attempt(files, request, task.timeout_s, task.grace_s, self._redactor)

    def _settle(self, name: str, future: Future[Answer]) -> None:
        try:
            answer = future.result()
        except OSError as error:  # no process, no disk: ours to report, and it may pass
            failure = Failure(f"the task could not be started: {error.strerror or error}", code="storage")
            answer = Answer(Ended("failed", failure=failure), again=True)
        self._conclude(self._tasks[name], answer)

    def _conclude(self, task: Task, answer: Answer) -> None:
        """Write down how an attempt ended, and decide what that means for its task."""
        settings = self._config.task(task.task)
        ended = answer.ended
        files = Files(self._folder, task.task, task.attempts)
        if ended.failure is not None:
            log = str(files.log.relative_to(self._state.root))
            ended = replace(ended, failure=replace(ended.failure, task=task.task, log=log))
        status = TaskStatus(ended.result) if ended.result in ("succeeded", "waiting", "failed") else TaskStatus.PENDING
        if ended.result == "failed" and answer.again and task.failures < settings.retries:
            status = TaskStatus.PENDING
            pause = min(_LONGEST_PAUSE_S, settings.retry_wait_s * 2**task.failures) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            self._not_before[task.task] = time.monotonic() + pause
            _log.info("task %s of run %s is tried again in %.1f s", task.task, self._run.run_id, pause)
        if ended.result == "interrupted" and task.interruptions + 1 >= MOST_INTERRUPTIONS:
            what = f"the task was interrupted {MOST_INTERRUPTIONS} times"
            failure = Failure(what, code="interrupted", hint="does it end its own engine?", task=task.task)
            ended, status = replace(ended, result="failed", failure=failure), TaskStatus.FAILED
        if ended.result == "waiting" and _waited_too_long(task, settings):
            failure = Failure(
                f"waited longer than {settings.wait_s:g} s: {ended.reason}", code="timeout", task=task.task
            )
            ended, status = replace(ended, result="failed", failure=failure), TaskStatus.FAILED
        promoted = status is TaskStatus.SUCCEEDED and bool((ended.values or {}).get("promoted"))
        self._journal.end(task, ended, status, promoted=promoted)
        files.clear()
        self._reload()

    def _failed(self) -> Failure | None:
        """The first failure among the tasks, gates before others; handlers' own do not count."""
        failures = [one.error for one in self._tasks.values() if one.status is TaskStatus.FAILED and not one.handler]
        found = [error for error in failures if error is not None]
        return next((error for error in found if error.gate), found[0] if found else None)

    def _end(self) -> Run:
        active_s = time.monotonic() - self._begun
        stands = [one.status for one in self._tasks.values() if not one.handler]
        if self._cancelled_by is not None:
            open_ = [one.task for one in self._tasks.values() if one.status in (TaskStatus.PENDING, TaskStatus.WAITING)]
            self._journal.mark(open_, TaskStatus.CANCELLED)
            run = self._journal.close(RunStatus.CANCELLED, active_s)
        elif failure := self._failed() if not self._ends.is_set() else None:
            waiting = [one.task for one in self._tasks.values() if one.status is TaskStatus.WAITING]
            self._journal.mark(waiting, TaskStatus.CANCELLED)
            run = self._journal.close(RunStatus.FAILED, active_s, failure=failure)
        elif all(status in (TaskStatus.SUCCEEDED, TaskStatus.SKIPPED) for status in stands):
            run = self._journal.close(RunStatus.SUCCEEDED, active_s)
        elif TaskStatus.WAITING in stands and not self._ends.is_set():
            reason = "; ".join(
                f"{one.task}: {one.reason}" for one in self._tasks.values() if one.status is TaskStatus.WAITING
            )
            run = self._journal.close(RunStatus.WAITING, active_s, reason=reason)
        else:  # stopped
            run = self._journal.close(RunStatus.RUNNING, active_s)
        self._run = run
        self._reload()
        return run


def _is_due(task: Task, now: datetime) -> bool:
    """Whether to ask a waiting task again. A time further off than it ever asked for is a clock that went back."""
    return task.wake_at is None or task.wake_at <= now


def _waited_too_long(task: Task, settings: TaskConfig) -> bool:
    if settings.wait_s is None or task.waiting_since is None:
        return False
    return datetime.now(UTC) - task.waiting_since > timedelta(seconds=settings.wait_s)


def _secrets(value: object) -> list[str]:
    """What the references of a configuration stand for, to be kept out of logs; one that leads nowhere hides none."""
    if isinstance(value, dict):
        return [secret for item in value.values() for secret in _secrets(item)]
    if isinstance(value, list | tuple):
        return [secret for item in value for secret in _secrets(item)]
    if isinstance(value, str) and value.startswith(("env:", "file:")):
        try:
            return [resolve_secret(value)]
        except LlmopsError:
            return []
    return []
