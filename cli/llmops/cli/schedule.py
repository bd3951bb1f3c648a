"""Does something again and again in the foreground: never twice at once, slower after errors, until it is stopped.

A line a round on stderr, with the time in UTC. Knows clocks and signals; what is done, its caller says.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import NoReturn

from llmops.cli.output import say
from llmops.core.errors import LlmopsError, UserError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TIME = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_LONGEST_PAUSE_S = 6 * 3600.0
_DOUBLINGS = 6


def seconds_of(text: str) -> float:
    """The seconds of `30s`, `15m`, `6h` or `1d`.

    Raises:
        UserError: it is no such time, or under a second.
    """
    found = _TIME.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds < 1:
        raise UserError(f"`{text}` is no time between two refreshes", hint="write 30s, 15m, 6h or 1d")
    return seconds


def repeat(once: Callable[[], str], every_s: float) -> NoReturn:
    """Call `once` now and then every `every_s` seconds; it gives the line that tells of its round.

    Rounds that come due while one still runs are left out. After an error the pause doubles with each further one, up
    to six hours; an error that is none of ours ends everything.

    Raises:
        KeyboardInterrupt: it was stopped, by Ctrl-C or SIGTERM.
    """
    failures, due = 0, time.monotonic()
    stop = threading.Event()
    with _stopped_by_sigterm():
        while True:
            try:
                _tell(once())
                failures = 0
            except LlmopsError as error:
                failures += 1
                where = f" ({error.where})" if error.where else ""
                _tell(f"failed, {_times(failures)}: {error.what}{where}")
            due = next_due(due, time.monotonic(), every_s, failures)
            pause_s = max(0.0, due - time.monotonic())
            _tell(f"next at {datetime.fromtimestamp(time.time() + pause_s, UTC):%H:%M:%S}")
            stop.wait(pause_s)


def next_due(due: float, now: float, every_s: float, failures: int) -> float:
    """When the next round begins: on the grid that the first one began, or later where the last ones failed."""
    if failures:
        most = max(every_s, _LONGEST_PAUSE_S)
        return now + min(every_s * 2.0 ** min(failures - 1, _DOUBLINGS), most)
    missed = max(0.0, now - due) // every_s
    return due + (missed + 1) * every_s


def _tell(line: str) -> None:
    say(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}")


def _times(failures: int) -> str:
    return "the first time" if failures == 1 else f"{failures} times in a row"


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end things as Ctrl-C does: at the next step that can be taken back."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
