"""The process of `llmops workflow schedule`: starts runs at their times, takes them up, resumes, delivers.

Any number of these may run over one state.
APScheduler wakes it; what is to be done then is read from rows, so a process that was killed has forgotten nothing.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from llmops.core.errors import ConfigError, ConflictError, LlmopsError
from llmops.core.identity import LOCAL, Principal
from llmops.core.listen import address, listening
from llmops.registry.workflow import runs, targets
from llmops.registry.workflow.cron import Cron
from llmops.registry.workflow.door import Workflows
from llmops.registry.workflow.job import Job
from llmops.registry.workflow.notify.courier import Courier
from llmops.registry.workflow.schedule import tick

MOST_RUNS = 8
LOOK_S = 1.0
"""How often the rows are looked at for runs to take up."""
_LOOK_AGAIN_S = 30.0  # a clock that was set forward wakes nobody
_log = logging.getLogger(__name__)


class Scheduler:
    """Everything but the socket. `start`, later `stop`."""

    def __init__(self, jobs: Sequence[Job], flows: Workflows, *, look_s: float = LOOK_S) -> None:
        self._jobs = {job.config.name: job for job in jobs}
        self._flows = flows
        self._engine = flows.engine()
        self._pool = ThreadPoolExecutor(MOST_RUNS, thread_name_prefix="workflow-run")
        self._taken: set[str] = set()
        self._lock = threading.Lock()
        self._courier = Courier(flows.sql)
        self._clock = BackgroundScheduler(timezone="UTC", job_defaults={"coalesce": True, "misfire_grace_time": None})
        for job in jobs:
            if job.config.schedule is not None:
                self._clock.add_job(self._tick, _Times(job.config.schedule.reading()), args=[job])
        self._clock.add_job(self._tick_all, "interval", seconds=_LOOK_AGAIN_S)
        self._clock.add_job(self._take_up, "interval", seconds=look_s)

    def start(self) -> None:
        self._tick_all()
        self._courier.__enter__()
        self._clock.start()

    def stop(self) -> None:
        """End what runs; it is resumed by whoever comes next."""
        self._clock.shutdown(wait=True)
        self._engine.stop()
        self._pool.shutdown(wait=True)
        self._courier.__exit__()

    def _tick_all(self) -> None:
        for job in self._jobs.values():
            self._tick(job)

    def _tick(self, job: Job) -> None:
        try:
            run = tick(self._flows, job)
        except LlmopsError as error:  # the next look makes up for it
            _log.warning("workflow %s: its schedule waits: %s", job.config.name, error.what)
            return
        if run is not None:
            _log.info("workflow %s: run %s, %s", job.config.name, run.run_id, run.cause.note)

    def _take_up(self) -> None:
        try:
            with self._flows.sql.read() as connection:
                due = [run.run_id for run in runs.due(connection, list(self._jobs))]
        except LlmopsError as error:
            _log.warning("runs wait: %s", error.what)
            return
        with self._lock:
            fresh = [run_id for run_id in due if run_id not in self._taken][: MOST_RUNS - len(self._taken)]
            self._taken.update(fresh)
        for run_id in fresh:
            self._pool.submit(self._carry, run_id)

    def _carry(self, run_id: str) -> None:
        try:
            run = self._engine.carry(run_id, ask=False)
            _log.info("run %s of workflow %s: %s", run_id, run.workflow, run.shown)
        except ConflictError as error:
            _log.info("run %s: %s", run_id, error.what)  # another engine has it
        except LlmopsError as error:
            _log.warning("run %s: %s", run_id, error.what)
        except Exception:  # noqa: BLE001 - the job's boundary: told with its trace, and the run is taken up again
            _log.error("run %s ended its engine", run_id, exc_info=True)
        finally:
            with self._lock:
                self._taken.discard(run_id)


class _Times(BaseTrigger):  # type: ignore[misc]
    """A crontab line as APScheduler asks for it."""

    def __init__(self, cron: Cron) -> None:
        self._cron = cron

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        return self._cron.after(max(previous_fire_time, now) if previous_fire_time else now)


def serve(
    jobs: Sequence[Job],
    *,
    listen: str | None = None,
    hosts: Sequence[str] = (),
    principal: Principal = LOCAL,
    announce: Callable[[str], None] = _log.info,
) -> None:
    """Schedule the jobs, and with `listen` (`HOST:PORT`) take signed triggers, until the process is asked to stop.

    Raises:
        ConfigError: the jobs do not belong together, cannot start, or the address is not to be listened on.
        KeyboardInterrupt: after everything has stopped, where Ctrl-C asked for it.
    """
    _check(jobs)
    signal.signal(signal.SIGTERM, _leave)
    with ExitStack() as stack:
        flows = stack.enter_context(Workflows(jobs[0].config.state, principal=principal))
        listener = _listener(stack, jobs, listen, hosts)
        scheduler = Scheduler(jobs, flows)
        scheduler.start()
        stack.callback(scheduler.stop)
        names = ", ".join(job.config.name for job in jobs)
        if listener is None:
            announce(f"scheduling {names} (Ctrl-C stops)")
            threading.Event().wait()
            return
        listener.listen(100)  # who calls at once waits for the server, and is not refused
        announce(f"scheduling {names}; triggers at {address(listener)}/v1/workflows/NAME/trigger (Ctrl-C stops)")
        _answer(jobs, flows, listener, hosts)


def _check(jobs: Sequence[Job]) -> None:
    names = [job.config.name for job in jobs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two of these files are the workflow `{twice}`", where=jobs[0].file)
    for job in jobs:
        if job.config.state != jobs[0].config.state:
            raise ConfigError("all workflows of one scheduler need the same `state`", where=job.file)
        job.params()  # what a run would lack is told now
        for task in (*job.config.tasks, *job.config.on_failure):
            targets.require(targets.target(task.name, task.run))


def _listener(stack: ExitStack, jobs: Sequence[Job], listen: str | None, hosts: Sequence[str]) -> socket.socket | None:
    if listen is None:
        return None
    from llmops.registry.workflow.trigger_app import parse_address, refuse_open_door

    if not any(job.config.trigger for job in jobs):
        raise ConfigError("none of these workflows has a `trigger`", where=jobs[0].file, hint="leave --listen out")
    host, port = parse_address(listen)
    refuse_open_door(host, hosts)
    return stack.enter_context(listening(host, port))


def _answer(jobs: Sequence[Job], flows: Workflows, listener: socket.socket, hosts: Sequence[str]) -> None:
    import uvicorn

    from llmops.registry.workflow.trigger_app import trigger_app

    settings = uvicorn.Config(
        trigger_app(jobs, flows, host=listener.getsockname()[0], hosts=hosts),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        limit_concurrency=100,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=16 * 1024,
    )
    uvicorn.Server(settings).run(sockets=[listener])


def _leave(_number: int, _frame: Any) -> None:
    """Uvicorn raises the signal again once it has stopped: leave by the blocks that end the runs, not at once."""
    raise SystemExit(0)
