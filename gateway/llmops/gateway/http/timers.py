"""Coarse time for ten thousand connections: one tick checks every deadline, and keeps the line of the Date header.

A deadline is a field that its owner moves (`deadline = timers.now + seconds`), so that arming and disarming cost one
assignment and no call into the loop. Knows no socket; what to do at a deadline is its owner's business.

The clock is this process's own: time during which the loop itself stood still (a suspended machine, a starved core)
advances it by two ticks at most, since no peer could have been heard in that time. A deadline is never early, and up to
two ticks late.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Final, Protocol

from llmops.gateway.http.outbox import Outbox

NEVER: Final = float("inf")
TICK_S: Final = 0.1

log = logging.getLogger(__name__)


class Timed(Protocol):
    """Something with a deadline. `NEVER` while it waits for nothing."""

    deadline: float

    def expire(self) -> None:
        """The deadline passed. Called at every tick until the deadline is moved or the thing is forgotten."""


class Timers:
    """The clock and the outbox of one worker, shared by the client side and the upstream side of the door."""

    __slots__ = (
        "_handle",
        "_loop",
        "_read_at",
        "_second",
        "_tick_s",
        "_watched",
        "date",
        "forget",
        "now",
        "outbox",
        "watch",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, tick_s: float = TICK_S) -> None:
        self._loop = loop
        self._tick_s = tick_s
        self._watched: set[Timed] = set()
        self.watch: Callable[[Timed], None] = self._watched.add
        self.forget: Callable[[Timed], None] = self._watched.discard
        self._read_at = loop.time()
        self._second = 0
        self.outbox = Outbox(loop)
        self.now = 0.0
        self.date = b""
        """The whole line `date: ...`, with its end."""
        self._renew_date()
        self._handle = loop.call_later(tick_s, self._tick)

    def watching(self) -> list[Timed]:
        """Whatever is watched now."""
        return list(self._watched)

    def close(self) -> None:
        self._handle.cancel()
        self._watched.clear()
        self.outbox.turn()

    def _tick(self) -> None:
        self._handle = self._loop.call_later(self._tick_s, self._tick)
        real = self._loop.time()
        self.now += min(real - self._read_at, 2 * self._tick_s)
        self._read_at = real
        self._renew_date()
        limit = self.now - self._tick_s  # `now` may have been a tick old when the deadline was set
        for thing in [thing for thing in self._watched if thing.deadline <= limit]:
            try:
                thing.expire()
            except Exception:
                log.exception("a deadline could not be handled")

    def _renew_date(self) -> None:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self.date = b"date: " + formatdate(second, usegmt=True).encode() + b"\r\n"
