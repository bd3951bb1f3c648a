"""The words in which a reached ceiling is told: which one, whose, and when it frees."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from llmops.gateway.allowance.exchange import LARGEST, StoreGone
from llmops.gateway.allowance.periods import bounds
from llmops.gateway.calls import Meter, Refused


def refusal(meter: Meter, retry_s: float | None, now_ms: int, *, never: bool = False) -> Refused:
    """The error of one request. `never`: it alone asks for more than the ceiling."""
    ceiling = f"{_ceiling(meter)} of {whose(meter.subject)}"
    if never:
        return Refused(meter, None, f"{ceiling} is less than this request may need")
    begun = f"{ceiling} is reached"
    if meter.what == "usd" and retry_s is None:
        return Refused(meter, None, f"{begun}; {_next(meter, now_ms)}")
    if meter.what == "usd":
        return Refused(meter, retry_s, f"{begun}: requests under way hold the rest; try again in {_seconds(retry_s)}")
    return Refused(meter, retry_s, f"{begun}; try again in {_seconds(retry_s)}")


def gone(meter: Meter, cause: str) -> StoreGone:
    """The error of a request that cannot be counted now."""
    return StoreGone(
        f"{_ceiling(meter)} of {whose(meter.subject)} cannot be checked now: {cause}",
        hint="try again in a moment",
    )


def whose(subject: str) -> str:
    """`user:TEAM:NAME` as a person says it."""
    kind, _, name = subject.partition(":")
    if kind == "user":
        team, _, user = name.partition(":")
        return f"user `{user}` of team `{team}`" if team else f"user `{user}`"
    return f"{kind} `{name}`"


def _ceiling(meter: Meter) -> str:
    if meter.what == "usd":
        dollars, nano = divmod(meter.ceiling, 10**9)
        cents = f"{nano:09d}".rstrip("0").ljust(2, "0")
        period = "in all" if meter.period == "total" else f"a {meter.period}"
        return f"the budget of ${dollars}.{cents} {period}"
    if meter.what == "concurrent":
        return f"the limit of {meter.ceiling} requests at once"
    return f"the limit of {meter.ceiling} {meter.what} a minute"


def _next(meter: Meter, now_ms: int) -> str:
    end = bounds(meter.period, now_ms)[1]
    if end == LARGEST:
        return "it never begins anew"
    return f"the next {meter.period} begins at {datetime.fromtimestamp(end / 1000, tz=UTC):%Y-%m-%dT%H:%M:%SZ}"


def _seconds(retry_s: float | None) -> str:
    return f"{max(1, math.ceil(retry_s or 0))} s"
