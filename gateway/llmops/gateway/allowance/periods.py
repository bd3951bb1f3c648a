"""The calendar of budgets: where the period of a moment begins and ends, in UTC. Weeks begin on Monday (ISO 8601)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from llmops.gateway.allowance.exchange import LARGEST, Account
from llmops.gateway.calls import Meter

_DAY = timedelta(days=1)


def bounds(period: str, now_ms: int) -> tuple[int, int]:
    """Begin (included) and end (excluded) of the period that holds a moment; milliseconds since 1970."""
    if period == "total":
        return 0, LARGEST
    day = datetime.fromtimestamp(now_ms / 1000, tz=UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "hour":
        start = now_ms - now_ms % 3_600_000
        return start, start + 3_600_000
    if period == "day":
        return _ms(day), _ms(day + _DAY)
    if period == "week":
        monday = day - day.weekday() * _DAY
        return _ms(monday), _ms(monday + 7 * _DAY)
    if period == "month":
        first = day.replace(day=1)
        return _ms(first), _ms((first + 32 * _DAY).replace(day=1))
    raise ValueError(f"`{period}` is no period")


def account_of(meter: Meter, now_ms: int) -> Account:
    """The account a meter is booked in at a moment of the store's clock."""
    if meter.what == "usd":
        start, end = bounds(meter.period, now_ms)
        return Account(f"{meter.id}@{start // 1000}", "usd", meter.ceiling, start, end)
    return Account(meter.id, "slots" if meter.what == "concurrent" else "rate", meter.ceiling)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000
