"""Usage and cost out of the inference table: sums by team, key, model, route or day, and the rows behind each number.

Reads the lake, so a request is seen a few seconds after it ended. What is being spent now is known by the meters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, get_args
from urllib.parse import urlencode

from llmops.core.errors import UserError
from llmops.core.lake import Lake

Dimension = Literal["team", "key", "model", "route", "day", "hour", "status", "error"]
DIMENSIONS: Final = get_args(Dimension)
FILTERS: Final = DIMENSIONS
DEFAULT_SINCE: Final = "7d"
MOST_ROWS: Final = 1000
MOST_DAYS: Final = 3660
"""Of one look: a page draws each of them."""

EXPRESSIONS: Final[Mapping[str, str]] = {
    "team": "coalesce(tags['team'], '')",
    "key": "coalesce(requester, '')",
    "model": "coalesce(tags['target'], '')",
    "route": "endpoint",
    "day": "strftime(request_time, '%Y-%m-%d')",
    "hour": "strftime(request_time, '%Y-%m-%d %H:00')",
    "status": "CASE WHEN coalesce(status_code, 0) < 400 THEN 'ok' ELSE 'error' END",
    "error": "coalesce(error_class, '')",
}
"""How each dimension is found in a row. An empty text is told as none."""

_SUMS: Final = """
    count(*) FILTER (layer = 'gateway') AS requests,
    count(*) FILTER (layer = 'gateway' AND coalesce(status_code, 0) >= 400) AS errors,
    coalesce(sum(input_tokens), 0)::BIGINT AS input_tokens,
    coalesce(sum(output_tokens), 0)::BIGINT AS output_tokens,
    coalesce(sum(cost_usd), 0)::DECIMAL(38, 9) AS cost_usd,
    quantile_cont(latency_ms, 0.5) FILTER (layer = 'gateway' AND status_code < 400) AS p50_ms,
    quantile_cont(latency_ms, 0.95) FILTER (layer = 'gateway' AND status_code < 400) AS p95_ms,
    quantile_cont(ttfb_ms, 0.5) FILTER (layer = 'gateway' AND status_code < 400) AS ttfb_ms
"""
"""An attempt that cost something without answering has a row of its own: money, but no request (`engine.record`).
Latencies are those of good answers: a refusal is quick."""

_ROW: Final = (
    "invocation_id, layer, request_id, request_time, endpoint, requester, status_code, error_class, latency_ms, "
    "ttfb_ms, input_tokens, output_tokens, cost_usd, variant, model_version, session_id, tags"
)


@dataclass(frozen=True)
class Sums:
    """One line of a usage table."""

    group: str
    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    p50_ms: float | None
    p95_ms: float | None
    ttfb_ms: float | None

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "cost_usd": f"{self.cost_usd.normalize():f}"}


@dataclass(frozen=True)
class Wanted:
    """Which requests: since when, and which values their dimensions have."""

    since: datetime
    until: datetime | None = None
    values: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, params: Mapping[str, str]) -> Wanted:
        """Out of a query string or a command's options.

        Raises:
            UserError: a time or a filter that there is not, or more than ten years.
        """
        values = tuple((name, params[name]) for name in FILTERS if name in params)
        since, until = moment(params.get("since") or DEFAULT_SINCE), params.get("until")
        wanted = cls(since, moment(until) if until else None, values)
        if (wanted.until or datetime.now(UTC)) - since > timedelta(days=MOST_DAYS):
            raise UserError("that is more than ten years", where="since", hint="narrow it by `since` and `until`")
        return wanted

    def but(self, name: str, value: str) -> Wanted:
        """The same, for one group of it."""
        return replace(self, values=(*(pair for pair in self.values if pair[0] != name), (name, value)))

    @property
    def query(self) -> str:
        """The query string that `read` understands."""
        times = {"since": self.since.strftime("%Y-%m-%dT%H:%M:%SZ")}
        if self.until:
            times["until"] = self.until.strftime("%Y-%m-%dT%H:%M:%SZ")
        return urlencode({**times, **dict(self.values)})

    def condition(self) -> tuple[str, dict[str, Any]]:
        # The day as well: the table is partitioned by it, so that older files are not opened.
        clauses = ["request_time >= $since", "request_date >= $since_date"]
        params: dict[str, Any] = {"since": self.since, "since_date": self.since.date()}
        if self.until is not None:
            clauses.append("request_time < $until")
            params["until"] = self.until
        for name, value in self.values:
            clauses.append(f"{EXPRESSIONS[name]} = ${name}")
            params[name] = value
        return " AND ".join(clauses), params


class UsageTable:
    """The inference table, as far as usage is concerned."""

    def __init__(self, lake: Lake, table: str) -> None:
        self._lake = lake
        self._table = table

    def sums(self, by: str, wanted: Wanted) -> list[Sums]:
        """A line for each group, the costliest first; days and hours in their order.

        Raises:
            UserError: there is no such dimension.
        """
        if by not in EXPRESSIONS:
            raise UserError(f"usage is not counted by `{by[:50]}`", hint=f"by {', '.join(DIMENSIONS)}")
        where, params = wanted.condition()
        order = "1" if by in ("day", "hour") else "cost_usd DESC, requests DESC, 1"
        sql = (
            f'SELECT {EXPRESSIONS[by]} AS "group", {_SUMS} FROM {self._table} WHERE {where} GROUP BY 1 ORDER BY {order}'  # noqa: S608 - own expressions
        )
        return [Sums(**row) for row in self._lake.query(sql, params)]

    def total(self, wanted: Wanted) -> Sums:
        where, params = wanted.condition()
        sql = f"SELECT 'all' AS \"group\", {_SUMS} FROM {self._table} WHERE {where}"  # noqa: S608 - own expressions
        return Sums(**self._lake.query(sql, params)[0])

    def rows(self, wanted: Wanted, limit: int = 100, before: str | None = None) -> list[dict[str, Any]]:
        """The requests themselves, newest first, without their bodies; `before` goes on behind an invocation id."""
        where, params = wanted.condition()
        if before is not None:
            where += " AND invocation_id < $before"
            params["before"] = before
        count = max(1, min(limit, MOST_ROWS))
        sql = f"SELECT {_ROW} FROM {self._table} WHERE {where} ORDER BY invocation_id DESC LIMIT {count}"  # noqa: S608
        return self._lake.query(sql, params)


def moment(text: str) -> datetime:
    """`7d`, `12h`, `30m`, or an ISO date or time; without a time zone it is UTC, as the table's days are.

    Raises:
        UserError: it is none of these.
    """
    if match := re.fullmatch(r"([0-9]{1,5})([dhm])", text):
        unit = {"d": "days", "h": "hours", "m": "minutes"}[match[2]]
        return datetime.now(UTC) - timedelta(**{unit: int(match[1])})
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UserError(f"`{text[:50]}` is no time", hint="write 7d, 12h, 30m or 2026-01-31") from None


def days(wanted: Wanted, sums: list[Sums]) -> list[Sums]:
    """The lines of usage by day with the empty days between them."""
    known = {one.group: one for one in sums}
    last = (wanted.until or datetime.now(UTC)).date()
    first = wanted.since.date()
    every = (first + timedelta(days=number) for number in range((last - first).days + 1))
    return [known.get(f"{day}") or _nothing(day) for day in every]


def _nothing(day: date) -> Sums:
    return Sums(f"{day}", 0, 0, 0, 0, Decimal(0), None, None, None)
