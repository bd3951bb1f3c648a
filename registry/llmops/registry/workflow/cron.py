"""When a crontab line fires, in a time zone, over changes of the clock.

APScheduler does the calendar. This module gives it the line as crontab means it: weekdays count from Sunday, day of
month and day of week are joined by "or", and a local time that occurs twice fires once.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_BOUNDS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}
_MONTHS = {
    name: i + 1
    for i, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"])
}
_DAYS = {name: i for i, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
_WORDS = {"month": _MONTHS, "weekday": _DAYS}
_SHORT = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip
DAY_NAMES = tuple(_DAYS)
_FURTHEST = timedelta(days=366 * 9)  # 29 February is eight years off at most


class Cron:
    """One crontab line.

    Raises:
        ValueError: it cannot be read, never fires, or the time zone is unknown.
    """

    def __init__(self, line: str, timezone: str = "UTC") -> None:
        fields = _SHORT.get(line.strip().lower(), line).split()
        if len(fields) != 5:
            raise ValueError(f"`{line}` has {len(fields)} fields: write minute hour day-of-month month day-of-week")
        self.line = " ".join(fields)
        try:
            self.zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"there is no time zone `{timezone}`") from error
        self.fields: dict[str, list[int] | None] = {
            name: _values(name, text) for name, text in zip(_BOUNDS, fields, strict=True)
        }
        """The values of each field; None: any. Weekdays are 0 (Sunday) to 6."""
        if self.after(datetime.now(UTC)) is None:
            raise ValueError(f"`{line}` never fires")

    def after(self, moment: datetime) -> datetime | None:
        """The first time after `moment`, UTC; None where there is none within years."""
        found = [next_ for trigger in self._triggers if (next_ := self._after(trigger, moment)) is not None]
        return min(found, default=None)

    def due(self, last: datetime, now: datetime) -> datetime | None:
        """The latest time after `last` and not after `now`: what one run makes up for, however many were missed."""
        latest = None
        # From at most a day or two before now on: a minutely line after a year off would be asked half a million times.
        start = last
        for back in (timedelta(hours=2), timedelta(days=2), timedelta(days=64)):
            if now - back > last and (found := self.after(now - back)) is not None and found <= now:
                start = now - back
                break
        while (following := self.after(latest or start)) is not None and following <= now:
            latest = following
        return latest

    @cached_property
    def _triggers(self) -> list[object]:
        from apscheduler.triggers.cron import CronTrigger

        common: dict[str, Any] = {"minute": _listed(self.fields["minute"]), "hour": _listed(self.fields["hour"])}
        common |= {"month": _listed(self.fields["month"]), "timezone": self.zone}
        day, weekday = self.fields["day"], self.fields["weekday"]
        names = None if weekday is None else ",".join(DAY_NAMES[number] for number in weekday)
        if day is not None and names is not None:  # crontab: either of the two
            return [CronTrigger(day=_listed(day), **common), CronTrigger(day_of_week=names, **common)]
        return [CronTrigger(day=_listed(day), day_of_week=names or "*", **common)]

    def _after(self, trigger: object, moment: datetime) -> datetime | None:
        asked = moment.astimezone(UTC) + timedelta(microseconds=1)
        limit = asked + _FURTHEST
        while asked < limit:
            found = trigger.get_next_fire_time(None, asked.astimezone(self.zone))  # type: ignore[attr-defined]
            if found is None:
                return None
            fires: datetime = found.astimezone(UTC)
            if self.fields["hour"] is None or not fires.astimezone(self.zone).fold:
                return fires
            asked = fires + timedelta(microseconds=1)  # the second of two equal local times: it has fired
        return None


def _values(name: str, text: str) -> list[int] | None:
    """The numbers that a field names, in order; None for `*`."""
    if text in ("*", "?"):
        return None
    low, high = _BOUNDS[name]
    found: set[int] = set()
    for part in text.lower().split(","):
        match = re.fullmatch(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?", part)
        if match is None or (match[1] == "*" and match[2]):
            raise ValueError(f"`{text}` is no {name} of a crontab line")
        top = 6 if name == "weekday" else high
        first = low if match[1] == "*" else _number(name, match[1])
        last = top if match[1] == "*" or (match[3] and not match[2]) else first
        last = _number(name, match[2]) if match[2] else last
        step = int(match[3] or 1)
        if not (low <= first <= last <= high) or step < 1:
            raise ValueError(f"`{part}` is no {name} of a crontab line: {low} to {high}, first before last")
        found.update(range(first, last + 1, step))
    if name == "weekday":
        found = {number % 7 for number in found}
    return sorted(found)


def _number(name: str, word: str) -> int:
    if word.isdigit():
        return int(word)
    if word[:3] in _WORDS.get(name, {}) and len(word) == 3:
        return _WORDS[name][word]
    raise ValueError(f"`{word}` is no {name} of a crontab line")


def _listed(values: list[int] | None) -> str:
    return "*" if values is None else ",".join(map(str, values))
