"""Looks at the gateway every few seconds: the meters of the last minutes, what is wrong, and what a collector is told.

Samples live in memory: the last quarter of an hour for the overview. What lasts is in the inference table.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from llmops.core.errors import LlmopsError
from llmops.core.webhook import Webhook
from llmops.gateway.config import GatewayConfig
from llmops.gateway.control.alerts import Alerts, Condition
from llmops.gateway.control.meters import Histogram, Merged, Meters
from llmops.gateway.control.telemetry import DURATION, FIRST_BYTE, REQUESTS, TOKENS, Telemetry

SAMPLE_S = 5.0
KEPT_S = 900.0
COST = "llmops_gateway_cost_nano_usd_total"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """The sums at one moment."""

    time: float
    merged: Merged

    @property
    def requests(self) -> float:
        return self.merged.total(REQUESTS)

    @property
    def errors(self) -> float:
        return self.merged.total(REQUESTS, status="5xx") + self.merged.total(REQUESTS, status="4xx")


@dataclass(frozen=True)
class Rate:
    """What happened between two samples; latencies are those of good answers: a refusal is quick."""

    time: float
    requests_per_s: float
    errors_per_s: float
    tokens_per_s: float
    usd_per_min: float
    p50_s: float | None
    p95_s: float | None
    first_byte_s: float | None


@dataclass
class Duties:
    """What is done at every look beside sampling. `conditions` says what is wrong now."""

    alerts: Alerts
    conditions: Callable[[Merged], Iterable[Condition]]
    config: Callable[[], GatewayConfig]
    webhook: Webhook | None = None
    telemetry: Telemetry | None = None
    follow: Callable[[], object] | None = None
    """Has the gateway read its configuration again where a registered route's alias moved."""
    record: Callable[[], object] | None = None
    """Puts on record which configurations were taken up and which refused."""
    problems: dict[str, str] = field(default_factory=dict)
    """Duty -> why it failed the last time."""


class Watch:
    """Looks in a thread of its own between `start` and `stop`."""

    def __init__(self, meters: Meters, duties: Duties, every_s: float = SAMPLE_S) -> None:
        self._meters = meters
        self.duties = duties
        self._every_s = every_s
        self._samples: deque[Sample] = deque(maxlen=max(2, round(KEPT_S / every_s)))
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Look once more, then end the thread."""
        self._stopping.set()
        self._thread.join()

    def look(self) -> None:
        """Sample, and do each duty; a duty that fails keeps no other from being done.

        One look at a time: an older one, still at it, would end the alerts that a newer one opened.
        """
        with self._looking:
            self._look()

    def _look(self) -> None:
        merged = self.read()
        with self._lock:
            self._samples.append(Sample(time.time(), merged))
        duties = self.duties
        self._try("keep the meters", self._meters.keep)
        self._try("observe alerts", lambda: duties.alerts.observe(duties.conditions(merged)))
        if duties.webhook is not None:
            webhook = duties.webhook
            self._try("post alerts", lambda: duties.alerts.deliver(webhook))
        if duties.record is not None:
            self._try("put configurations on record", duties.record)
        if duties.follow is not None:
            self._try("follow the registered routes", duties.follow)
        if duties.telemetry is not None:
            telemetry = duties.telemetry
            self._try("send metrics", lambda: telemetry.send(merged, duties.config()))

    def read(self) -> Merged:
        """The sums now."""
        with self._lock:
            return self._meters.read()

    def samples(self) -> list[Sample]:
        with self._lock:
            return list(self._samples)

    def rates(self) -> list[Rate]:
        """What happened between each two samples."""
        samples = self.samples()
        return [_rate(before, after) for before, after in pairwise(samples)]

    def _run(self) -> None:
        self.look()
        while not self._stopping.wait(self._every_s):
            self.look()
        self.look()

    def _try(self, duty: str, work: Callable[[], object]) -> None:
        try:
            work()
        except (LlmopsError, OSError) as error:
            if self.duties.problems.get(duty) != str(error):
                _log.error("could not %s, and will try again: %s", duty, error)
            self.duties.problems[duty] = str(error)
        else:
            self.duties.problems.pop(duty, None)


def _rate(before: Sample, after: Sample) -> Rate:
    seconds = max(after.time - before.time, 1e-6)

    def grown(name: str) -> float:
        return max(0.0, after.merged.total(name) - before.merged.total(name))

    durations = difference(before.merged, after.merged, DURATION, status="2xx")
    first = difference(before.merged, after.merged, FIRST_BYTE, status="2xx")
    return Rate(
        time=after.time,
        requests_per_s=max(0.0, after.requests - before.requests) / seconds,
        errors_per_s=max(0.0, after.errors - before.errors) / seconds,
        tokens_per_s=sum(grown(name) for name in TOKENS.values()) / seconds,
        usd_per_min=grown(COST) / 1e9 * 60 / seconds,
        p50_s=durations.quantile(0.5) if durations else None,
        p95_s=durations.quantile(0.95) if durations else None,
        first_byte_s=first.quantile(0.5) if first else None,
    )


def difference(before: Merged, after: Merged, name: str, **labels: str) -> Histogram | None:
    """What a histogram gained between two moments."""
    now, then = after.histogram(name, **labels), before.histogram(name, **labels)
    if now is None or then is None or then.bounds != now.bounds:
        return now
    counts = [max(0, new - old) for new, old in zip(now.counts, then.counts, strict=True)]
    return Histogram(now.bounds, counts, max(0.0, now.sum - then.sum))
