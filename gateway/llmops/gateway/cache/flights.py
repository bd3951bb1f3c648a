"""Lets identical questions that arrive at once share one upstream call: the first one asks, the others wait for it.

Plain callbacks, for the door's normal path. Knows keys and who waits; whether an answer is kept is not its matter.
"""

from __future__ import annotations

from collections.abc import Callable

from llmops.gateway.cache.exact import Stored

Waiter = Callable[[Stored | None], None]
MAX_WAITERS = 10_000


class Flights:
    """Calls under way, by key."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, list[Waiter]] = {}
        self._waiters = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, key: bytes, waiter: Waiter) -> bool:
        """True: somebody asks already, and `waiter` will be called. False: the caller asks, and must call `land`."""
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = []
            return False
        if self._waiters >= MAX_WAITERS:
            return False
        waiting.append(waiter)
        self._waiters += 1
        return True

    def leave(self, key: bytes, waiter: Waiter) -> None:
        """The waiter's own caller is gone."""
        waiting = self._waiting.get(key)
        if waiting is not None and waiter in waiting:
            waiting.remove(waiter)
            self._waiters -= 1

    def land(self, key: bytes, stored: Stored | None) -> None:
        """The call ended: everybody gets its answer; with none, the first one asks anew and the others wait for it."""
        waiting = self._waiting.pop(key, None)
        if not waiting:
            return
        self._waiters -= len(waiting)
        for waiter in waiting:
            waiter(stored)
