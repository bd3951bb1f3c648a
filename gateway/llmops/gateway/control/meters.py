"""The meters of all workers as one: each worker writes its own file, a reader adds them up.

What a worker had counted when it ended is kept, so that no sum ever goes down, also over a restart of the gateway.
Knows the files' form (see `engine.metrics`), and no name of a meter but where it says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from llmops.gateway.published import METRICS

STALE_S = 10.0
"""A worker that has not written for so long is gone, and with it what it had under way."""
KEPT = "meters.json"
Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]
_log = logging.getLogger(__name__)


@dataclass
class Histogram:
    """Counts of each bucket alone (not cumulative), the last one above every bound."""

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float = 0.0

    def add(self, counts: list[int], total: float) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)]
        self.sum += total

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """The value below which so many lie, by straight lines within the buckets; None where there is none."""
        wanted, seen, low = share * self.count, 0, 0.0
        if not self.count:
            return None
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and seen + count >= wanted:
                return low + (bound - low) * (wanted - seen) / count
            seen, low = seen + count, bound
        return low


@dataclass
class Merged:
    """The sums at one moment."""

    counters: dict[Series, float] = field(default_factory=dict)
    gauges: dict[Series, float] = field(default_factory=dict)
    histograms: dict[Series, Histogram] = field(default_factory=dict)

    def add(self, file: Mapping[str, Any]) -> None:
        """Add what one worker counted; its gauges are another matter."""
        for name, labels, value in file["counters"]:
            key = _series(name, labels)
            self.counters[key] = self.counters.get(key, 0) + value
        for name, labels, counts, total in file["histograms"]:
            key = _series(name, labels)
            bounds = tuple(file["bounds"][name])
            known = self.histograms.get(key)
            if known is None or known.bounds != bounds:  # other bounds: another version counted those
                self.histograms[key] = known = Histogram(bounds, [0] * (len(bounds) + 1))
            known.add(counts, total)

    def add_gauges(self, file: Mapping[str, Any]) -> None:
        for name, labels, value in file["gauges"]:
            key = _series(name, labels)
            self.gauges[key] = self.gauges.get(key, 0) + value

    def total(self, name: str, **labels: str) -> float:
        """The sum of a counter over all series that carry these labels."""
        return sum(value for series, value in self.counters.items() if _has(series, name, labels))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The sums of a counter by one label's values."""
        found: dict[str, float] = {}
        for series, value in self.counters.items():
            if _has(series, name, labels):
                key = dict(series[1]).get(label, "")
                found[key] = found.get(key, 0) + value
        return found

    def histogram(self, name: str, **labels: str) -> Histogram | None:
        """All series of a histogram that carry these labels, added up."""
        found: Histogram | None = None
        for series, one in self.histograms.items():
            if _has(series, name, labels):
                found = found or Histogram(one.bounds, [0] * len(one.counts))
                if found.bounds == one.bounds:
                    found.add(one.counts, one.sum)
        return found

    def gauge(self, name: str, **labels: str) -> float:
        return sum(value for series, value in self.gauges.items() if _has(series, name, labels))


class Meters:
    """Reads the workers' files. `read` from one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / METRICS
        self._kept_path = folder / KEPT
        self._ended = Merged()
        self._seen: dict[str, dict[str, Any]] = {}
        self._load()

    def read(self) -> Merged:
        """The sums now."""
        files = dict(self._files())
        for name, file in files.items():
            before = self._seen.get(name)
            if before is not None and _another_process(before, file):
                self._ended.add(before)
            self._seen[name] = file
        merged = _copy(self._ended)
        for name, file in self._seen.items():
            merged.add(file)
            if name in files and time.time() - file["time"] < STALE_S:
                merged.add_gauges(file)
        return merged

    def keep(self) -> None:
        """Have what was read survive this process; not flushed: a power cut may cost the last seconds."""
        kept = {
            "ended": {
                "bounds": {name: list(one.bounds) for (name, _), one in self._ended.histograms.items()},
                "counters": [[name, dict(labels), value] for (name, labels), value in self._ended.counters.items()],
                "histograms": [
                    [name, dict(labels), one.counts, one.sum] for (name, labels), one in self._ended.histograms.items()
                ],
            },
            "seen": self._seen,
        }
        temporary = self._kept_path.with_suffix(".tmp")
        temporary.write_bytes(orjson.dumps(kept))
        temporary.replace(self._kept_path)

    def _load(self) -> None:
        try:
            kept = orjson.loads(self._kept_path.read_bytes())
            self._ended.add(kept["ended"])
            self._seen = kept["seen"]
        except FileNotFoundError:
            return
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            _log.error("the kept sums of the meters cannot be read and begin anew: %r (%s)", error, self._kept_path)
            self._ended, self._seen = Merged(), {}

    def _files(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in sorted(self._folder.glob("*.json")):
            try:
                yield path.stem, orjson.loads(path.read_bytes())
            except (OSError, orjson.JSONDecodeError) as error:
                _log.warning("a worker's meters cannot be read: %r (%s)", error, path)


def prometheus(merged: Merged) -> str:
    """The sums in Prometheus' text format; money in dollars."""
    lines: list[str] = []
    for kind, found in (("counter", merged.counters), ("gauge", merged.gauges)):
        last = ""
        for (name, labels), value in sorted(found.items()):
            shown, number = (name, f"{value:g}" if value % 1 else f"{value:.0f}")
            if name.endswith("_nano_usd_total"):
                shown, number = name.replace("_nano_usd_", "_usd_"), f"{value / 1e9:.9f}"
            if name != last:
                lines.append(f"# TYPE {shown} {kind}")
                last = name
            lines.append(f"{shown}{_braces(labels)} {number}")
    last = ""
    for (name, labels), one in sorted(merged.histograms.items(), key=lambda item: item[0]):
        if name != last:
            lines.append(f"# TYPE {name} histogram")
            last = name
        seen = 0
        for bound, count in zip((*one.bounds, float("inf")), one.counts, strict=True):
            seen += count
            edge = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f"{name}_bucket{_braces((*labels, ('le', edge)))} {seen}")
        lines += [f"{name}_sum{_braces(labels)} {one.sum:.6f}", f"{name}_count{_braces(labels)} {seen}"]
    return "\n".join(lines) + "\n"


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _series(name: str, labels: Mapping[str, str]) -> Series:
    return name, tuple(sorted(labels.items()))


def _has(series: Series, name: str, labels: Mapping[str, str]) -> bool:
    return series[0] == name and labels.items() <= dict(series[1]).items()


def _another_process(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Process ids return: a counter that fell tells as well."""
    if before["pid"] != now["pid"]:
        return True
    values = {_series(name, labels): value for name, labels, value in now["counters"]}
    return any(values.get(_series(name, labels), 0) < value for name, labels, value in before["counters"])


def _copy(merged: Merged) -> Merged:
    copied = Merged(dict(merged.counters))
    copied.histograms = {
        series: Histogram(one.bounds, list(one.counts), one.sum) for series, one in merged.histograms.items()
    }
    return copied
