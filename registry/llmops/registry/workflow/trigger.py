"""Starting a workflow from outside: who may, how often, and never twice for one reason.

A request is signed as `core.webhook` signs: HMAC-SHA256 over `<timestamp>.<body>`, with an id inside the body. Whether
it starts a run is decided in one transaction that holds the workflow's row: cool-down, rate and de-duplication are
durable, and exact over processes. Knows no HTTP.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from sqlalchemy import Connection, Row, func, insert, select, update

from llmops.core.errors import ConfigError, RateLimitedError, UnauthenticatedError, UnavailableError, UserError
from llmops.core.identity import Principal
from llmops.core.redact import find_secrets
from llmops.core.secret import resolve_secret
from llmops.core.sql import Sql
from llmops.core.webhook import signature
from llmops.registry.workflow import runs, tables
from llmops.registry.workflow.config import TriggerConfig
from llmops.registry.workflow.door import Workflows
from llmops.registry.workflow.job import Job
from llmops.registry.workflow.records import Cause, Means
from llmops.registry.workflow.runs import Order

WINDOW_S = 300
_log = logging.getLogger(__name__)
TRIGGERS = tables.triggers.c
Word = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\x21-\x7e]+$")]


class TriggerRequest(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Word = Field(description="Of this request; sent again, it gives what it gave the first time")
    key: Word | None = Field(None, description="The reason: while a run for it is unfinished, no other is started")
    note: str = Field("", max_length=1000, description="For people")
    params: dict[str, JsonValue] = Field(default_factory=dict)


@dataclass(frozen=True)
class Admitted:
    """What came of a request: accepted, duplicate or cooling; the run it started or that stands for it."""

    outcome: str
    run_id: str | None
    retry_after_s: float = 0.0


@dataclass(frozen=True)
class Received:
    """A signed request as it is kept."""

    key_id: str
    request_id: str
    workflow: str
    received_at: datetime
    address: str
    dedup_key: str | None
    note: str
    outcome: str
    run_id: str | None

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "received_at": self.received_at.isoformat()}


@dataclass(frozen=True)
class Sender:
    """Who asks: a key's id, or a principal inside; from which address."""

    key_id: str
    address: str
    principal: Principal
    means: Means = "trigger"

    @classmethod
    def by_key(cls, key_id: str, address: str) -> Sender:
        return cls(key_id, address, Principal(f"trigger:{key_id}", "service"))


def verify(trigger: TriggerConfig | None, headers: Mapping[str, str], body: bytes, *, now: float | None = None) -> str:
    """The id of the key that signed this request.

    Raises:
        UnauthenticatedError: unknown key, wrong signature and stale timestamp are not told apart.
    """
    keys = trigger.keys if trigger is not None else {}
    named = headers.get("x-llmops-key", next(iter(keys)) if len(keys) == 1 else "")
    stamp = headers.get("x-llmops-timestamp", "")
    # Computed also where there is no such key, so that the time taken does not tell keys apart.
    expected = signature(_secret(keys[named]) if named in keys else "none", stamp, body)
    right = hmac.compare_digest(expected.encode(), headers.get("x-llmops-signature", "").encode())
    fresh = stamp.isdigit() and len(stamp) < 12 and abs((now or time.time()) - int(stamp)) <= WINDOW_S
    if not (right and fresh and named in keys):
        raise UnauthenticatedError(
            "the signature is not valid",
            hint="sign `<timestamp>.<body>` with a key of the workflow's `trigger`, within 5 minutes",
        )
    return named


def _secret(reference: str) -> str:
    try:
        return resolve_secret(reference)
    except ConfigError as error:  # whoever asks learns nothing of the configuration
        _log.error("a trigger's key cannot be read: %s", error.what)
        raise UnavailableError("the signature cannot be checked now") from None


def parse(body: bytes) -> TriggerRequest:
    """The request in a body.

    Raises:
        UserError: it is not of that shape, or holds a secret.
    """
    try:
        request = TriggerRequest.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "body"
        raise UserError(f"`{where}`: {problem['msg']}", hint="send {id, key?, note?, params?} as JSON") from error
    if find_secrets(request.note):
        raise UserError("the note holds what looks like a secret", where="note")
    return request


def admit(flows: Workflows, job: Job, request: TriggerRequest, sender: Sender) -> Admitted:
    """Start a run for the request, or say which one stands for it, or when to ask again. Goes on the audit log.

    Raises:
        ConfigError: a parameter is wrong or missing.
        RateLimitedError: too many requests within a minute; nothing is kept of this one.
    """
    params = job.params(request.params, where="params")
    about = {"by": sender.means, "request": request.id, "key": request.key, "note": request.note}
    with (
        flows.auditing() as audit,
        audit.acting("retrain", job.config.name, about, sender.principal) as acting,
        flows.sql.begin() as connection,
    ):
        admitted = _decide(connection, Order(job.config, params, job.file, principal=sender.principal), request, sender)
        acting.concluded(connection, result={"outcome": admitted.outcome, "run_id": admitted.run_id})
    return admitted


def _decide(connection: Connection, order: Order, request: TriggerRequest, sender: Sender) -> Admitted:
    trigger, workflow = order.config.trigger, order.config.name
    held = runs.hold(connection, workflow)
    now = runs.moment(connection)
    if (known := _known(connection, request, sender)) is not None:
        return Admitted("duplicate", known.run_id)
    if trigger is not None and _within_a_minute(connection, workflow, now) >= trigger.requests_per_minute:
        raise RateLimitedError("too many requests to start this workflow", where=workflow)
    run_id, remaining = _standing(connection, workflow, request), _cooling(held, trigger, now)
    if run_id is not None:
        admitted = Admitted("duplicate", run_id)
    elif remaining > 0:
        admitted = Admitted("cooling", None, remaining)
    else:
        cause = Cause(sender.means, f"{sender.means}:{sender.key_id}:{request.id}"[:200], request.note)
        run = runs.create(connection, replace(order, cause=cause))
        row = tables.workflows.c.workflow == workflow
        connection.execute(update(tables.workflows).where(row).values(triggered_at=now))
        admitted = Admitted("accepted", run.run_id)
    connection.execute(
        insert(tables.triggers).values(
            key_id=sender.key_id,
            request_id=request.id,
            workflow=workflow,
            received_at=now,
            address=sender.address[:200],
            dedup_key=request.key,
            note=request.note,
            outcome=admitted.outcome,
            run_id=admitted.run_id,
        )
    )
    return admitted


def received(sql: Sql, workflow: str | None = None, limit: int = 50) -> list[Received]:
    """The signed requests that came in, newest first."""
    query = select(tables.triggers).order_by(TRIGGERS.received_at.desc()).limit(limit)
    if workflow is not None:
        query = query.where(TRIGGERS.workflow == workflow)
    with sql.read() as connection:
        return [Received(**row._mapping) for row in connection.execute(query)]


def _known(connection: Connection, request: TriggerRequest, sender: Sender) -> Row[Any] | None:
    same = (TRIGGERS.key_id == sender.key_id) & (TRIGGERS.request_id == request.id)
    return connection.execute(select(tables.triggers).where(same)).first()


def _within_a_minute(connection: Connection, workflow: str, now: datetime) -> int:
    recent = (TRIGGERS.workflow == workflow) & (TRIGGERS.received_at > now - timedelta(minutes=1))
    return connection.execute(select(func.count()).where(recent & (TRIGGERS.received_at <= now))).scalar_one()


def _standing(connection: Connection, workflow: str, request: TriggerRequest) -> str | None:
    """The unfinished run that was started for the same reason."""
    if request.key is None:
        return None
    open_ = [run.run_id for run in runs.unfinished(connection, workflow)]
    same = (TRIGGERS.workflow == workflow) & (TRIGGERS.dedup_key == request.key) & (TRIGGERS.outcome == "accepted")
    query = select(TRIGGERS.run_id).where(same, TRIGGERS.run_id.in_(open_)).limit(1)
    found: str | None = connection.execute(query).scalar()
    return found


def _cooling(held: Row[Any], trigger: TriggerConfig | None, now: datetime) -> float:
    """Seconds of the cool-down that are left; all of it where the clock has gone back behind the last run."""
    if trigger is None or held.triggered_at is None:
        return 0.0
    passed = max(0.0, (now - held.triggered_at).total_seconds())
    return float(max(0.0, trigger.cool_down_s - passed))
