"""What is wrong now: budgets nearly spent, targets left alone, models that are not the ones asked for.

A condition opens one alert, stays one alert while it lasts, and is ended when it no longer holds. Alerts are rows of
the own state; each is posted to the webhook once, and tried again later where that fails.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import Row, insert, select, update

from llmops.core.errors import LlmopsError
from llmops.core.ids import new_id
from llmops.core.sql import Sql
from llmops.core.webhook import Webhook
from llmops.gateway.control.tables import ALERTS

Kind = Literal["budget_80", "budget_100", "breaker_open", "model_changed"]
MOST_ATTEMPTS: Final = 20
_LONGEST_PAUSE = timedelta(hours=1)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Condition:
    """Something that is wrong at this moment."""

    kind: Kind
    subject: str
    message: str


@dataclass(frozen=True)
class Alert:
    alert_id: str
    kind: str
    subject: str
    message: str
    opened_at: datetime
    ended_at: datetime | None
    delivered_at: datetime | None
    attempts: int
    delivery_error: str

    def as_json(self) -> dict[str, Any]:
        times = {name: getattr(self, name) for name in ("opened_at", "ended_at", "delivered_at")}
        return {
            **vars(self),
            **{name: time.isoformat(timespec="seconds") if time else None for name, time in times.items()},
        }


class Alerts:
    """The table of alerts."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    def observe(self, conditions: Iterable[Condition]) -> list[Alert]:
        """Open and end alerts so that the open ones are these; gives the new ones."""
        now = datetime.now(UTC)
        wrong = {(one.kind, one.subject): one for one in conditions}
        with self._sql.read() as connection:
            open_ = {(row.kind, row.subject): row.alert_id for row in connection.execute(_OPEN)}
        fresh = [one for key, one in wrong.items() if key not in open_]
        over = [alert_id for key, alert_id in open_.items() if key not in wrong]
        if not fresh and not over:
            return []
        opened = [Alert(new_id(), one.kind, one.subject[:300], one.message, now, None, None, 0, "") for one in fresh]
        with self._sql.begin() as connection:
            if opened:
                connection.execute(insert(ALERTS), [vars(alert) for alert in opened])
            if over:
                connection.execute(update(ALERTS).where(ALERTS.c.alert_id.in_(over)).values(ended_at=now))
        return opened

    def list(self, limit: int = 100) -> list[Alert]:
        """The open ones, then the newest others."""
        with self._sql.read() as connection:
            rows = connection.execute(
                select(ALERTS).order_by(ALERTS.c.ended_at.is_not(None), ALERTS.c.opened_at.desc()).limit(limit)
            ).all()
        return [_alert(row) for row in rows]

    def deliver(self, webhook: Webhook) -> int:
        """Post what was not posted yet; tells how many arrived."""
        now = datetime.now(UTC)
        waiting = [alert for alert in self.list() if alert.delivered_at is None and _due(alert, now)]
        return sum(self._deliver(webhook, alert) for alert in waiting)

    def _deliver(self, webhook: Webhook, alert: Alert) -> bool:
        try:
            webhook.post({"alert": _told(alert.as_json())})
        except LlmopsError as error:
            _log.warning("an alert could not be posted, and will be tried again: %s", error)
            values: dict[str, Any] = {"attempts": alert.attempts + 1, "delivery_error": str(error)}
        else:
            values = {"attempts": alert.attempts + 1, "delivery_error": "", "delivered_at": datetime.now(UTC)}
        with self._sql.begin() as connection:
            connection.execute(update(ALERTS).where(ALERTS.c.alert_id == alert.alert_id).values(values))
        return "delivered_at" in values


_OPEN = select(ALERTS.c.kind, ALERTS.c.subject, ALERTS.c.alert_id).where(ALERTS.c.ended_at.is_(None))


def _due(alert: Alert, now: datetime) -> bool:
    """After 10 s, 20 s, 40 s, ... at most an hour; not for ever."""
    if alert.attempts >= MOST_ATTEMPTS:
        return False
    pause = min(_LONGEST_PAUSE, timedelta(seconds=10 * (2**alert.attempts - 1)))
    return now >= alert.opened_at + pause


def _told(alert: Mapping[str, Any]) -> dict[str, Any]:
    return {name: alert[name] for name in ("alert_id", "kind", "subject", "message", "opened_at", "ended_at")}


def _alert(row: Row[Any]) -> Alert:
    return Alert(**row._mapping)
