"""What one worker counts, and the file in which the control process finds it.

Each second a worker writes `folder/metrics/<worker>.json`, whole or not at all:

    {"worker": 0, "pid": 123, "time": 1764000000.0,
     "bounds": {"llmops_gateway_duration_seconds": [0.005, ...], ...},
     "counters": [[name, {label: value}, number], ...],
     "gauges": [[name, {label: value}, number], ...],
     "histograms": [[name, {label: value}, [count below each bound, ..., count above all], sum of seconds], ...]}

Histogram counts are of their own bucket, not cumulative. Label values come from the configuration only, and past
a bound all further ones are counted together. Numbers only grow while the worker lives, gauges excepted.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from pathlib import Path
from typing import Any, Final

import orjson

from llmops.gateway.calls import Usage

DURATION: Final = "llmops_gateway_duration_seconds"
FIRST_BYTE: Final = "llmops_gateway_first_byte_seconds"
BOUNDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 600.0,
)  # fmt: skip
_MOST_SERIES: Final = 5_000
_OTHER: Final = "other"
_FIELDS: Final = ("calls", "input_tokens", "output_tokens", "cached_tokens", "nano_usd", "estimated")


class Histogram:
    """Times by their bucket. They are only noted one by one, and sorted when somebody looks: that is each second."""

    __slots__ = ("_counts", "_sum_s", "fresh")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum_s = 0.0
        self.fresh: list[float] = []
        """Append to it."""

    def read(self) -> tuple[list[int], float]:
        """Count of each bucket, and the sum of seconds."""
        fresh = sorted(self.fresh)
        self.fresh.clear()
        self._sum_s += sum(fresh)
        below = 0
        for place, bound in enumerate(BOUNDS):
            upto = bisect_right(fresh, bound)
            self._counts[place] += upto - below
            below = upto
        self._counts[-1] += len(fresh) - below
        return self._counts, self._sum_s


class Tally:
    """The numbers of one combination of route, target, status class and team."""

    __slots__ = (*_FIELDS, "durations", "first_bytes")

    def __init__(self) -> None:
        self.calls = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0
        self.nano_usd = 0
        self.estimated = 0
        self.durations = Histogram()
        self.first_bytes = Histogram()

    def book(self, usage: Usage, nano_usd: int) -> None:
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.nano_usd += nano_usd
        if usage.cached_tokens:
            self.cached_tokens += usage.cached_tokens
        if usage.estimated:
            self.estimated += 1

    def time(self, duration_s: float, first_byte_s: float | None) -> None:
        self.durations.fresh.append(duration_s)
        if first_byte_s is not None:
            self.first_bytes.fresh.append(first_byte_s)


class Metrics:
    """All numbers of one worker."""

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self._tallies: dict[tuple[str, str, str, str], Tally] = {}
        self._counters: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self.under_way = 0

    def tally(self, route: str, target: str, status: str, team: str) -> Tally:
        """The numbers of a combination; keep the result, rather than asking for each request."""
        key = (route, target, status, team)
        found = self._tallies.get(key)
        if found is None:
            if len(self._tallies) >= _MOST_SERIES:
                key = (_OTHER, _OTHER, status, _OTHER)
            found = self._tallies.setdefault(key, Tally())
        return found

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        """Add to a rarer counter, such as retries. Labels come from the configuration or a fixed list."""
        key = (name, tuple(sorted(labels.items())))
        if key not in self._counters and len(self._counters) >= _MOST_SERIES:
            key = (name, tuple((label, _OTHER) for label in sorted(labels)))
        self._counters[key] = self._counters.get(key, 0) + by

    def as_json(self, gauges: list[tuple[str, dict[str, str], float]]) -> bytes:
        """The file's bytes, as this module's docstring says."""
        counters: list[Any] = [[name, dict(labels), value] for (name, labels), value in self._counters.items()]
        histograms: list[Any] = []
        for (route, target, status, team), tally in self._tallies.items():
            labels = {"route": route, "target": target, "status": status, "team": team}
            counters += [[f"llmops_gateway_{_NAMES[field]}", labels, getattr(tally, field)] for field in _FIELDS]
            counts, sum_s = tally.durations.read()
            histograms.append([DURATION, labels, counts, round(sum_s, 6)])
            counts, sum_s = tally.first_bytes.read()
            if any(counts):
                histograms.append([FIRST_BYTE, labels, counts, round(sum_s, 6)])
        return orjson.dumps(
            {
                "worker": self.worker,
                "pid": os.getpid(),
                "time": time.time(),
                "bounds": {DURATION: BOUNDS, FIRST_BYTE: BOUNDS},
                "counters": counters,
                "gauges": [["llmops_gateway_under_way", {}, self.under_way], *gauges],
                "histograms": histograms,
            }
        )

    def dump(self, folder: Path, gauges: list[tuple[str, dict[str, str], float]]) -> None:
        """Replace this worker's file. Not flushed to the disk: an fsync would hold up every request, each second."""
        path = folder / f"{self.worker}.json"
        temporary = folder / f".{self.worker}.json.tmp"
        temporary.write_bytes(self.as_json(gauges))
        temporary.replace(path)


_NAMES: Final = {
    "calls": "requests_total",
    "input_tokens": "input_tokens_total",
    "output_tokens": "output_tokens_total",
    "cached_tokens": "cached_tokens_total",
    "nano_usd": "cost_nano_usd_total",
    "estimated": "estimated_usage_total",
}
