"""How far a long job is, told to whoever draws it. Knows counting; knows no terminal."""

from __future__ import annotations

import time
from typing import Literal, Protocol

Phase = Literal["scan", "parse", "embed", "facts", "write", "verify"]


class Progress(Protocol):
    """Draws progress. Called from several threads, at most some tens of times a second a phase."""

    def __call__(self, phase: Phase, done: int, total: int | None, rate: float) -> None:
        """Take note of one phase.

        Args:
            total: how many there will be, as far as is known by now.
            rate: units a second since the phase began; documents for scan, parse and facts, chunks for embed, write and
                verify.
        """
        ...


def silent(phase: Phase, done: int, total: int | None, rate: float) -> None:
    """Draw nothing."""


class Meter:
    """Counts one phase and its working seconds, and tells a `Progress` of it, at most 20 times a second."""

    def __init__(self, phase: Phase, progress: Progress, total: int | None = None) -> None:
        self.phase: Phase = phase
        self.total = total
        self.done = 0
        self.seconds = 0.0
        self._progress = progress
        self._began = time.monotonic()
        self._told = 0.0

    def add(self, count: int = 1, seconds: float = 0.0) -> None:
        self.done += count
        self.seconds += seconds
        now = time.monotonic()
        if now - self._told >= 0.05:
            self._tell(now)

    def end(self) -> None:
        """Tell the final count."""
        self._tell(time.monotonic())

    def _tell(self, now: float) -> None:
        self._told = now
        rate = self.done / max(now - self._began, 1e-9)
        self._progress(self.phase, self.done, self.total, rate)
