"""Leaves a failing target alone for a while, then lets single requests probe it.

Knows successes, failures and time. What counts as a failure is `faults`' matter; who is asked instead is `balance`'s.
"""

from __future__ import annotations

from typing import Final

from llmops.gateway.config import BreakerConfig

_WINDOW: Final = 20
_MASK: Final = (1 << _WINDOW) - 1
_LONGEST: Final = 10.0


class Breaker:
    """Closed, open until a moment, or half open: past that moment, with at most one request on probation."""

    __slots__ = ("_config", "_in_a_row", "_open_s", "_probing", "_recent", "opened", "until")

    def __init__(self, config: BreakerConfig) -> None:
        self._config = config
        self._in_a_row = 0
        self._recent = 0  # one bit for each of the last 20 calls: 1 is a failure
        self._open_s = config.open_s
        self._probing = False
        self.until = 0.0
        self.opened = 0

    def admits(self, now: float) -> bool:
        """Whether a request may be sent now."""
        return not self.until or (now >= self.until and not self._probing)

    def begin(self) -> None:
        """A request is sent; while the breaker is not closed, it is the probe."""
        if self.until:
            self._probing = True

    def abandon(self) -> None:
        """The request ended without saying anything about the target: the caller left."""
        self._probing = False

    def success(self) -> None:
        if self._recent or self.until:
            self._in_a_row = 0
            self._recent = (self._recent << 1) & _MASK
            if self.until:
                self._recent = 0
                self.until = 0.0
                self._probing = False
                self._open_s = self._config.open_s

    def failure(self, now: float) -> bool:
        """Count a failure; True where it opened the breaker."""
        self._in_a_row += 1
        self._recent = (self._recent << 1 | 1) & _MASK
        if self._probing:
            self._open_s = min(self._open_s * 2, self._config.open_s * _LONGEST)
        elif self.until or (
            self._in_a_row < self._config.failures
            and self._recent.bit_count() < max(_WINDOW // 2, self._config.failures)
        ):
            return False
        self._probing = False
        self.until = now + self._open_s
        self.opened += 1
        return True
