"""A workflow's times: each starts one run, whichever process sees it first, however often any of them is restarted.

The last time that was dealt with is a row. What was missed meanwhile is one run; a clock that goes back starts nothing
twice. Knows rows and times; APScheduler, which wakes the process, is `scheduler`'s.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from sqlalchemy import select, update

from llmops.registry.workflow import runs, tables
from llmops.registry.workflow.door import Workflows
from llmops.registry.workflow.job import Job
from llmops.registry.workflow.records import Cause, Run, RunStatus
from llmops.registry.workflow.runs import RUNS, Order

_log = logging.getLogger(__name__)


def upcoming(job: Job, count: int = 3, *, now: datetime | None = None) -> list[str]:
    """The next times of a job's schedule, in its own time zone; none where it has no schedule."""
    if job.config.schedule is None:
        return []
    cron = job.config.schedule.reading()
    found: list[datetime] = []
    moment = now or datetime.now(UTC)
    while len(found) < count and (following := cron.after(moment)) is not None:
        found.append(following)
        moment = following
    return [time.astimezone(cron.zone).isoformat() for time in found]


def tick(flows: Workflows, job: Job, *, now: datetime | None = None) -> Run | None:
    """Start the run whose time has come, once; None where none has.

    A workflow that is scheduled for the first time makes up for nothing. Where a scheduled run still waits in the
    queue, it stands for this time too.
    """
    if job.config.schedule is None:
        return None
    cron, tolerance = job.config.schedule.reading(), job.config.schedule.misfire_s
    now = now or datetime.now(UTC)
    row = tables.workflows.c.workflow == job.config.name
    with flows.sql.begin() as connection:
        last = runs.hold(connection, job.config.name).scheduled_at
        due = None if last is None else cron.due(last, now)
        if last is not None and due is None:
            return None
        connection.execute(update(tables.workflows).where(row).values(scheduled_at=due or now))
        if due is None:
            return None
        if tolerance is not None and (now - due).total_seconds() > tolerance:
            _log.warning("workflow %s: the start of %s was missed and is too old", job.config.name, due.isoformat())
            return None
        waiting = (RUNS.workflow == job.config.name) & (RUNS.status == RunStatus.QUEUED) & (RUNS.means == "schedule")
        if connection.execute(select(RUNS.run_id).where(waiting)).first() is not None:
            _log.info("workflow %s: an earlier scheduled run still waits for its turn", job.config.name)
            return None
        cause = Cause("schedule", f"schedule:{due.isoformat()}", f"due {due.astimezone(cron.zone).isoformat()}")
        return runs.create(connection, Order(job.config, job.params(), job.file, cause, flows.principal))
