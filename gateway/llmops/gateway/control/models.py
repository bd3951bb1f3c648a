"""Which model each provider says it answered with, and whether that is still the one it was.

Reads the inference table a little at a time: what came since the last look. A provider that silently changes what
stands behind a name changes the answers of a product that did not change.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from llmops.core.lake import Lake
from llmops.gateway.config import GatewayConfig
from llmops.gateway.control.alerts import Condition

LOOK_BACK = timedelta(days=1)
TOLD_FOR = timedelta(days=1)
"""How long a change stays an alert where the configuration does not say which model is expected."""
_OVERLAP = timedelta(minutes=2)


@dataclass
class Reported:
    """What one target's replies named last."""

    model: str
    since: datetime
    before: str | None = None
    last: datetime | None = None


class ReportedModels:
    """The models reported by each target (`provider/model`)."""

    def __init__(self, lake: Lake, table: str) -> None:
        self._lake = lake
        self._table = table
        self._lock = threading.Lock()
        self._read_until: datetime | None = None
        self.targets: dict[str, Reported] = {}

    def look(self) -> None:
        """Read what came since the last look."""
        now = datetime.now(UTC)
        since = self._read_until - _OVERLAP if self._read_until else now - LOOK_BACK
        sql = (
            "SELECT tags['target'] AS target, model_version AS model, min(request_time) AS first, "  # noqa: S608 - a checked name
            f"max(request_time) AS last FROM {self._table} WHERE request_time >= $since AND request_date >= $day "
            "AND model_version IS NOT NULL AND tags['target'] IS NOT NULL GROUP BY 1, 2 ORDER BY last"
        )
        rows = self._lake.query(sql, {"since": since, "day": since.date()})
        with self._lock:
            self._read_until = now
            for row in rows:
                self._take(row)

    def conditions(self, config: GatewayConfig) -> list[Condition]:
        """What is not as expected now."""
        with self._lock:
            return list(self._conditions(config))

    def _take(self, row: dict[str, Any]) -> None:
        known = self.targets.get(row["target"])
        if known is None:
            self.targets[row["target"]] = Reported(row["model"], row["first"], last=row["last"])
        elif known.last is None or row["last"] > known.last:
            if known.model != row["model"]:
                self.targets[row["target"]] = Reported(row["model"], row["first"], known.model, row["last"])
            known.last = row["last"]

    def _conditions(self, config: GatewayConfig) -> Iterable[Condition]:
        expected = {
            f"{target.provider}/{target.model}": target.expect_model
            for route in config.routes
            for target in route.targets
        }
        for label, reported in self.targets.items():
            if label not in expected:
                continue
            pattern = expected[label]
            if pattern is not None and not re.search(pattern, reported.model):
                yield Condition(
                    "model_changed", label, f"{label} answers as `{reported.model}`, which is not `{pattern}`"
                )
            elif pattern is None and reported.before and datetime.now(UTC) - reported.since < TOLD_FOR:
                yield Condition(
                    "model_changed", label, f"{label} answers as `{reported.model}`; before it was `{reported.before}`"
                )
