"""Messages to be sent, written in the transaction that makes them true; delivered at least once, each with its id.

Knows rows and who wants to hear of what. How a message travels is `channels`' matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, select, update

from llmops.core.ids import new_id
from llmops.core.sql import Sql
from llmops.registry.workflow import tables
from llmops.registry.workflow.config import WorkflowConfig
from llmops.registry.workflow.records import Run

MOST_ATTEMPTS = 20
CLAIM_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 3600.0
MESSAGES = tables.messages.c


@dataclass(frozen=True)
class Message:
    """One message to one receiver."""

    message_id: str
    channel: dict[str, Any]
    body: dict[str, Any]
    attempts: int


def tell(
    connection: Connection,
    run: Run,
    event: str,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Put what happened into the outbox, once for everybody whose `on` names the event.

    Args:
        details: of `task`, `reason`, `error` and `values`, those that the event has.
    """
    config = WorkflowConfig.model_validate(run.config)
    now = datetime.now(UTC)
    for entry in config.notify:
        if event not in entry.on:
            continue
        body = {
            "id": new_id(),
            "event": event,
            "workflow": run.workflow,
            "run_id": run.run_id,
            "catalog": run.catalog,
            "at": now.isoformat(timespec="milliseconds"),
            "cause": run.cause.means,
            "requested_by": run.requested_by.id,
            "task": None,
            "reason": None,
            "error": None,
            "values": None,
            **(details or {}),
        }
        connection.execute(
            insert(tables.messages).values(
                message_id=body["id"],
                run_id=run.run_id,
                channel=entry.model_dump(mode="json"),
                body=body,
                created_at=now,
                due_at=now,
                attempts=0,
                error="",
            )
        )


def take(sql: Sql) -> Message | None:
    """The next message that is due, out of others' reach for a minute; None where there is none."""
    now = datetime.now(UTC)
    waiting = (MESSAGES.delivered_at.is_(None)) & MESSAGES.given_up_at.is_(None) & (MESSAGES.due_at <= now)
    with sql.read() as connection:
        if connection.execute(select(MESSAGES.message_id).where(waiting).limit(1)).first() is None:
            return None
    with sql.begin() as connection:
        query = select(tables.messages).where(waiting).order_by(MESSAGES.due_at, MESSAGES.message_id).limit(1)
        row = connection.execute(query.with_for_update(skip_locked=True)).first()
        if row is None:
            return None
        change = {"due_at": now + timedelta(seconds=CLAIM_S), "attempts": row.attempts + 1}
        connection.execute(update(tables.messages).where(MESSAGES.message_id == row.message_id).values(change))
    return Message(row.message_id, row.channel, row.body, row.attempts + 1)


def settle(sql: Sql, message: Message, error: str = "") -> None:
    """A message was delivered, or, for the reason given, not; then it is tried again later, and at last given up."""
    now = datetime.now(UTC)
    change: dict[str, Any] = {"error": error[:1000]}
    if not error:
        change["delivered_at"] = now
    elif message.attempts >= MOST_ATTEMPTS:
        change["given_up_at"] = now
    else:
        pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (message.attempts - 1))
        change["due_at"] = now + timedelta(seconds=pause)
    with sql.begin() as connection:
        connection.execute(update(tables.messages).where(MESSAGES.message_id == message.message_id).values(change))
