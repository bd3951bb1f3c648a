"""One worker's answers in memory, bounded by bytes.

S3-FIFO: what is asked for once passes through a small queue and is forgotten first: a stream of single questions does
not wash out what is asked again and again. Knows keys and entries; no request, no clock but the one given.

Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, doi:10.1145/3600006.3613147.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from llmops.gateway.calls import Usage

OVERHEAD_BYTES = 600
"""What an entry costs beside its body: key, objects, places in two tables (measured)."""
_LARGEST = 8  # an entry takes an eighth of the room at most
_SMALL = 10  # the small queue holds a tenth
_MOST_HITS = 3


@dataclass(slots=True, frozen=True)
class Stored:
    """A whole good reply as its caller got it, in the format of its operation."""

    body: bytes
    usage: Usage
    model: str | None
    at: float
    """When it was made, in seconds since 1970."""

    def age_s(self, now: float) -> float:
        return max(0.0, now - self.at)


class _Entry:
    __slots__ = ("hits", "size", "stored")

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.size = len(stored.body) + OVERHEAD_BYTES
        self.hits = 0


class Memory:
    """Entries by key; nothing older than `ttl_s` is given out."""

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.time) -> None:
        self._max, self._ttl, self._clock = max_bytes, ttl_s, clock
        self._small: OrderedDict[bytes, _Entry] = OrderedDict()
        self._main: OrderedDict[bytes, _Entry] = OrderedDict()
        self._gone: OrderedDict[bytes, None] = OrderedDict()
        self._small_bytes = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def get(self, key: bytes, max_age_s: float | None = None) -> Stored | None:
        """The answer, where it is young enough."""
        entry = self._small.get(key) or self._main.get(key)
        if entry is None:
            return None
        age = entry.stored.age_s(self._clock())
        if age >= self._ttl:
            self._drop(key)
            return None
        if max_age_s is not None and age > max_age_s:
            return None
        entry.hits = min(_MOST_HITS, entry.hits + 1)
        return entry.stored

    def put(self, key: bytes, stored: Stored) -> bool:
        """Keep it; False where it is too large or too old to be kept."""
        entry = _Entry(stored)
        if entry.size > self._max // _LARGEST or stored.age_s(self._clock()) >= self._ttl:
            return False
        self._drop(key)
        if key in self._gone:
            del self._gone[key]
            self._main[key] = entry
        else:
            self._small[key] = entry
            self._small_bytes += entry.size
        self.size_bytes += entry.size
        while self.size_bytes > self._max:
            self._evict()
        return True

    def clear(self) -> None:
        """Forget everything."""
        for table in (self._small, self._main, self._gone):
            table.clear()
        self._small_bytes = self.size_bytes = 0

    def _drop(self, key: bytes) -> None:
        entry = self._small.pop(key, None)
        if entry is not None:
            self._small_bytes -= entry.size
        else:
            entry = self._main.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry.size

    def _evict(self) -> None:
        """One step: the oldest of a queue is forgotten, or moves where it lives on."""
        if self._small and (self._small_bytes * _SMALL > self._max or not self._main):
            key, entry = self._small.popitem(last=False)
            self._small_bytes -= entry.size
            if entry.hits:
                entry.hits = 0
                self._main[key] = entry
                return
            self._gone[key] = None
            while len(self._gone) > len(self._main) + len(self._small) + 1:
                self._gone.popitem(last=False)
        else:
            key, entry = self._main.popitem(last=False)
            if entry.hits:
                entry.hits -= 1
                self._main[key] = entry
                return
        self.size_bytes -= entry.size
