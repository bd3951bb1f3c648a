"""Runs as rows: making, finding, taking turns, waking, cancelling, repairing.

Each function works in the caller's transaction. Whoever starts or claims a run first holds its workflow's row, so that
limits and keys hold over processes and machines. What an engine writes while it runs is `journal`'s.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import JsonValue
from sqlalchemy import Connection, Row, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from llmops.core.errors import ConflictError, NotFoundError, UserError, did_you_mean
from llmops.core.identity import LOCAL, Principal
from llmops.core.ids import new_id
from llmops.registry.workflow import tables
from llmops.registry.workflow.config import WorkflowConfig
from llmops.registry.workflow.notify import outbox
from llmops.registry.workflow.records import (
    ACTIVE,
    Cause,
    Failure,
    Run,
    RunStatus,
    Task,
    TaskStatus,
    config_hash,
)

LEASE_S = 15.0
RUNS, TASKS, ATTEMPTS = tables.runs.c, tables.tasks.c, tables.attempts.c
_UNSET = {
    "outputs": None, "error": None, "reason": None, "waiting_since": None, "wake_at": None, "wake_on": None,
    "started_at": None, "ended_at": None, "duration_s": None,
}  # fmt: skip


@dataclass(frozen=True)
class Order:
    """A run that is asked for."""

    config: WorkflowConfig
    params: Mapping[str, JsonValue]
    file: str = ""
    cause: Cause = field(default_factory=Cause)
    principal: Principal = LOCAL


def moment(connection: Connection) -> datetime:
    """Now, by the one clock that every engine on this database shares."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    found: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return found.astimezone(UTC)


def hold(connection: Connection, workflow: str) -> Row[Any]:
    """The workflow's row, made where it is missing, and nobody else's until the end of the transaction."""
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    connection.execute(dialect.insert(tables.workflows).values(workflow=workflow).on_conflict_do_nothing())
    row = tables.workflows.c.workflow == workflow
    return connection.execute(select(tables.workflows).where(row).with_for_update()).one()


def create(connection: Connection, order: Order) -> Run:
    """Put a run into the queue. With a cause's key that was used before, gives the run it started then."""
    hold(connection, order.config.name)
    if order.cause.key is not None and (known := by_key(connection, order.config.name, order.cause.key)):
        return known
    config = order.config.model_dump(mode="json", exclude_defaults=True)
    run_id, params = new_id(), dict(order.params)
    connection.execute(
        insert(tables.runs).values(
            run_id=run_id,
            workflow=order.config.name,
            status=RunStatus.QUEUED,
            config=config,
            config_hash=config_hash(config, params),
            config_file=order.file,
            params=params,
            catalog=order.config.env,
            means=order.cause.means,
            cause_key=order.cause.key,
            note=order.cause.note,
            principal={
                "id": order.principal.id,
                "kind": order.principal.kind,
                "groups": sorted(order.principal.groups),
            },
            created_at=moment(connection),
            active_s=0.0,
        )
    )
    every = [(task, False) for task in order.config.tasks] + [(task, True) for task in order.config.on_failure]
    for position, (task, handler) in enumerate(every):
        values = {"position": position, "handler": handler, "status": TaskStatus.PENDING}
        counts = {"attempts": 0, "failures": 0, "interruptions": 0}
        connection.execute(insert(tables.tasks).values(run_id=run_id, task=task.name, **values, **counts))
    return find(connection, run_id)


def find(connection: Connection, run_id: str) -> Run:
    """One run, by its id or the beginning of it.

    Raises:
        NotFoundError: there is none, or several begin so.
    """
    pattern = run_id.replace("%", "").replace("_", "")
    rows = connection.execute(select(tables.runs).where(RUNS.run_id.like(f"{pattern}%")).limit(2)).all()
    if len(rows) != 1 or not pattern:
        what = f"several runs begin with `{run_id}`" if len(rows) > 1 else f"no run `{run_id}`"
        raise NotFoundError(what, hint="`llmops workflow list` shows the runs")
    return _run(rows[0], moment(connection))


def by_key(connection: Connection, workflow: str, key: str) -> Run | None:
    """The run that this key of a cause has started."""
    row = connection.execute(select(tables.runs).where(RUNS.workflow == workflow, RUNS.cause_key == key)).first()
    return None if row is None else _run(row, moment(connection))


def list_(
    connection: Connection,
    workflow: str | None = None,
    statuses: Sequence[RunStatus] = (),
    limit: int = 50,
) -> builtins.list[Run]:
    """Runs, newest first."""
    query = select(tables.runs).order_by(RUNS.created_at.desc(), RUNS.run_id.desc()).limit(limit)
    if workflow is not None:
        query = query.where(RUNS.workflow == workflow)
    if statuses:
        query = query.where(RUNS.status.in_(statuses))
    now = moment(connection)
    return [_run(row, now) for row in connection.execute(query)]


def unfinished(connection: Connection, workflow: str) -> builtins.list[Run]:
    """The runs of a workflow that are not over, oldest first."""
    return list_(connection, workflow, (RunStatus.QUEUED, *ACTIVE), limit=1000)[::-1]


def require_workflow(connection: Connection, workflow: str) -> None:
    """Raises NotFoundError where no run of the workflow was ever asked for; tells the nearest."""
    names = set(connection.execute(select(tables.workflows.c.workflow)).scalars())
    if workflow not in names:
        raise NotFoundError(f"no workflow `{workflow}` has ever run", hint=did_you_mean(workflow, names))


def tasks(connection: Connection, run_id: str) -> builtins.list[Task]:
    """The tasks of a run, in the configuration's order."""
    rows = connection.execute(select(tables.tasks).where(TASKS.run_id == run_id).order_by(TASKS.position))
    return [_task(row) for row in rows]


def blocker(connection: Connection, run: Run) -> Run | None:
    """The run that must end, or go first, before this queued one may start; None where it is its turn."""
    others = [one for one in unfinished(connection, run.workflow) if one.run_id != run.run_id]
    ahead = [
        one for one in others if one.status in ACTIVE or (one.created_at, one.run_id) < (run.created_at, run.run_id)
    ]
    most = WorkflowConfig.model_validate(run.config).max_concurrent_runs
    return ahead[0] if len(ahead) >= most else None


def claim(connection: Connection, run_id: str, token: str, place: str) -> Run | None:
    """Make a run this engine's; None where it is not its turn, or it is over. The caller holds the run's lock file.

    Raises:
        ConflictError: an engine at another place runs it.
    """
    first = find(connection, run_id)
    hold(connection, first.workflow)
    row = connection.execute(select(tables.runs).where(RUNS.run_id == first.run_id).with_for_update()).one()
    now = moment(connection)
    run = _run(row, now)
    if run.status.over or (run.status is RunStatus.QUEUED and blocker(connection, run) is not None):
        return None
    if row.lease is not None and row.lease_place != place and row.lease_until > now:
        raise ConflictError(
            f"the run `{run.run_id}` is under way elsewhere", where=row.lease_place, hint="it goes on there"
        )
    connection.execute(
        update(tables.runs)
        .where(RUNS.run_id == run.run_id)
        .values(
            status=RunStatus.RUNNING,
            started_at=func.coalesce(RUNS.started_at, now),
            lease=token,
            lease_place=place,
            lease_until=now + timedelta(seconds=LEASE_S),
            wake_at=None,
        )
    )
    if row.started_at is None:
        outbox.tell(connection, run, "started")
    return find(connection, run.run_id)


def due(connection: Connection, workflows: Sequence[str]) -> builtins.list[Run]:
    """Runs that an engine could take up now: queued and it is their turn, waiting and to be woken, interrupted."""
    now = moment(connection)
    query = select(tables.runs).where(
        RUNS.workflow.in_(workflows),
        or_(
            RUNS.status == RunStatus.QUEUED,
            (RUNS.status == RunStatus.WAITING) & (RUNS.wake_at <= now),
            (RUNS.status == RunStatus.RUNNING) & or_(RUNS.lease.is_(None), RUNS.lease_until < now),
        ),
    )
    found = [_run(row, now) for row in connection.execute(query.order_by(RUNS.created_at, RUNS.run_id))]
    return [run for run in found if run.status is not RunStatus.QUEUED or blocker(connection, run) is None]


def wake(connection: Connection, on: str) -> builtins.list[str]:
    """End the wait of every task that waits for `on`; gives the runs that go on as soon as an engine takes them."""
    now = moment(connection)
    waiting = (TASKS.status == TaskStatus.WAITING) & (TASKS.wake_on == on)
    run_ids = list(connection.execute(select(TASKS.run_id).where(waiting).distinct()).scalars())
    if run_ids:
        connection.execute(update(tables.tasks).where(waiting).values(wake_at=now))
        parked = RUNS.run_id.in_(run_ids) & (RUNS.status == RunStatus.WAITING)
        connection.execute(update(tables.runs).where(parked).values(wake_at=now))
    return run_ids


def cancel(connection: Connection, run_id: str, principal: Principal) -> Run:
    """Ask for the end of a run: one that nobody runs ends here and now, else its engine ends it within a second.

    Raises:
        UserError: it is over.
    """
    run = find(connection, run_id)
    hold(connection, run.workflow)
    run = find(connection, run.run_id)
    if run.status.over:
        raise UserError(f"the run is {run.status}", where=run.run_id, hint="there is nothing to cancel")
    change: dict[str, Any] = {"cancelled_by": principal.id}
    if run.status is not RunStatus.RUNNING or run.interrupted:
        change |= {"status": RunStatus.CANCELLED, "ended_at": moment(connection), "wake_at": None, "lease": None}
        open_ = (TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.WAITING)
        rows = (TASKS.run_id == run.run_id) & TASKS.status.in_(open_)
        connection.execute(update(tables.tasks).where(rows).values(status=TaskStatus.CANCELLED))
    connection.execute(update(tables.runs).where(RUNS.run_id == run.run_id).values(change))
    return find(connection, run.run_id)


def repair(connection: Connection, run_id: str) -> Run:
    """Put a failed or cancelled run back into the queue: what succeeded stays, the rest runs again.

    Raises:
        UserError: it succeeded, or a gate refused it, which no repetition changes.
    """
    run = find(connection, run_id)
    hold(connection, run.workflow)
    run = find(connection, run.run_id)
    if not run.status.over:
        return run
    if run.status is RunStatus.SUCCEEDED or (run.error is not None and run.error.gate):
        why = "succeeded" if run.error is None else f"was refused by the gate of `{run.error.task}`"
        raise UserError(
            f"the run {why}", where=run.run_id, hint=f"start a new one: `llmops workflow run {run.config_file}`"
        )
    kept = (TaskStatus.SUCCEEDED, TaskStatus.SKIPPED)
    again = (TASKS.run_id == run.run_id) & (TASKS.status.not_in(kept) | TASKS.handler)
    fresh = {"status": TaskStatus.PENDING, "failures": 0, "interruptions": 0, **_UNSET}
    connection.execute(update(tables.tasks).where(again).values(fresh))
    change = {"status": RunStatus.QUEUED, "ended_at": None, "error": None, "cancelled_by": None, "lease": None}
    connection.execute(update(tables.runs).where(RUNS.run_id == run.run_id).values(change))
    return find(connection, run.run_id)


def _run(row: Row[Any], now: datetime) -> Run:
    principal = row.principal
    lapsed = row.status == RunStatus.RUNNING and (row.lease is None or row.lease_until < now)
    return Run(
        run_id=row.run_id,
        workflow=row.workflow,
        status=RunStatus(row.status),
        config=row.config,
        config_file=row.config_file,
        params=row.params,
        catalog=row.catalog,
        cause=Cause(row.means, row.cause_key, row.note),
        requested_by=Principal(principal["id"], principal["kind"], frozenset(principal["groups"])),
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        active_s=row.active_s,
        wake_at=row.wake_at,
        reason=row.reason,
        error=Failure(**row.error) if row.error else None,
        cancelled_by=row.cancelled_by,
        engine=row.lease_place if row.lease else None,
        interrupted=lapsed,
    )


def _task(row: Row[Any]) -> Task:
    columns = {name: value for name, value in row._mapping.items() if name != "outputs"}
    columns["status"] = TaskStatus(row.status)
    columns["error"] = Failure(**row.error) if row.error else None
    return Task(**columns, values=row.outputs)
