"""Publishing: the newest row of each key goes from a feature table in the lake to the online store, and how late it is.

Incremental: only files that are new since the last publication are read, for a file of the lake never changes. What
speaks of a later moment than now is not yet so; its file is read again next time. One publisher a table and machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmops.core.delta import WRITER_WAIT_S
from llmops.core.features.asof import microseconds
from llmops.core.features.keys import KeyCodes
from llmops.core.features.online import Entry, OnlineStore, Published, key_text, moment
from llmops.core.features.store import FeatureStore
from llmops.core.features.table import FeatureTable
from llmops.core.files import exclusive_lock

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Staleness:
    """How far the online store is behind the lake, and the newest row behind the clock."""

    table: str
    lake_version: int
    online_version: int | None
    newest: datetime | None
    published_at: datetime | None
    age_s: float | None

    @property
    def is_current(self) -> bool:
        return self.online_version == self.lake_version

    def as_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "lake_version": self.lake_version,
            "online_version": self.online_version,
            "is_current": self.is_current,
            "newest": None if self.newest is None else self.newest.isoformat(),
            "published_at": None if self.published_at is None else self.published_at.isoformat(),
            "age_s": self.age_s,
        }


def publish(
    store: FeatureStore,
    table: FeatureTable | str,
    online: OnlineStore,
    *,
    anew: bool = False,
    now: datetime | None = None,
) -> int:
    """Bring the online store up to the lake; gives how many rows went there.

    Safe to be killed at any point, and to be run again.

    Args:
        anew: read everything and drop what is no longer in the lake: needed after rows were deleted.

    Raises:
        NotFoundError: no such feature table.
        ConflictError: another process is publishing it.
    """
    name = store.name(table)
    declared = store.describe(name)
    with _alone(store, name):
        held = None if anew else online.published(name)
        dataset, files, version = store.lake.changed(name, held.files if held else ())
        reading = _Reading(dataset, declared, held, now or datetime.now(UTC))
        if held is not None and held.version == version and not reading.has_files:
            return 0
        online.publish(name, reading.newest_rows(), lambda: reading.done(files, version), anew=held is None)
        return reading.rows


def staleness(
    store: FeatureStore, table: FeatureTable | str, online: OnlineStore, now: datetime | None = None
) -> Staleness:
    """How late the online store is.

    Raises:
        NotFoundError: no such feature table.
    """
    name = store.name(table)
    _, version = store.read(name)
    held = online.published(name)
    newest = None if held is None or held.newest_us is None else moment(held.newest_us)
    return Staleness(
        table=name,
        lake_version=version,
        online_version=None if held is None else held.version,
        newest=newest,
        published_at=None if held is None else moment(held.published_us),
        age_s=None if newest is None else ((now or datetime.now(UTC)) - newest).total_seconds(),
    )


class _Reading:
    """The newest rows of some files, and which files hold rows that are not yet so."""

    def __init__(self, dataset: Any, table: FeatureTable, held: Published | None, now: datetime) -> None:
        self._dataset = dataset
        self._table = table
        self._now_us = _microseconds(now)
        self._newest_us = None if held is None else held.newest_us
        self._unripe: set[str] = set()
        self.rows = 0

    @property
    def has_files(self) -> bool:
        return bool(self._dataset.files)

    def done(self, files: list[str], version: int) -> Published:
        """What to note once everything was read."""
        read = tuple(file for file in files if file not in self._unripe)
        return Published(version, read, self._newest_us, _microseconds(datetime.now(UTC)))

    def newest_rows(self) -> Iterator[list[Entry]]:
        """The newest row of each key, a batch a file; a key may come again in another file."""
        for fragment in self._dataset.get_fragments():
            rows = fragment.to_table(schema=self._dataset.schema)
            times = microseconds(rows[self._table.timestamp], self._table.timestamp, up=True).to_numpy()
            ripe = times <= self._now_us
            if not ripe.all():
                self._unripe.add(fragment.path)
            if ripe.any():
                newest = int(times[ripe].max())
                self._newest_us = newest if self._newest_us is None else max(newest, self._newest_us)
                entries = self._entries(rows.filter(pa.array(ripe)), times[ripe])
                self.rows += len(entries)
                yield entries

    def _entries(self, rows: Any, times: Any) -> list[Entry]:
        names = [key.name for key in self._table.keys]
        codes = KeyCodes([rows[name] for name in names], names).of_labels
        order = np.lexsort((times, codes))
        last = order[np.flatnonzero(np.append(np.diff(codes[order]) != 0, True))]
        chosen, moments = rows.take(pa.array(last)), times[last]
        keys = zip(*(chosen[name].to_pylist() for name in names), strict=True)
        features = [feature.name for feature in self._table.features]
        values = zip(*(_json(chosen[name]) for name in features), strict=True)
        return [
            Entry(key_text(key), int(at), dict(zip(features, row, strict=True)))
            for key, at, row in zip(keys, moments, values, strict=True)
        ]


def _json(column: Any) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = pc.cast(pc.cast(column, pa.timestamp("us", tz="UTC")), pa.int64())
    elif pa.types.is_date32(column.type):
        column = pc.cast(column, pa.int32())
    found: list[Any] = column.to_pylist()
    return found


def _alone(store: FeatureStore, name: str) -> Any:
    if not store.lake.is_local:
        return nullcontext()
    return exclusive_lock(
        Path(store.lake.root) / ".locks" / f"{name}.publish.lock", what=f"publishing {name}", wait_s=WRITER_WAIT_S
    )


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND
