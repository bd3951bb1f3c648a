"""The point-in-time join: for each label the newest feature row of its key at or before the label's moment.

Feature rows pass by once, in batches; what is kept follows the number of labels, not of feature rows. Each label owns
the stretch of its key's time since the label before it; a feature row belongs to the label whose stretch it falls into,
the newest of a stretch stays, and a stretch without one takes over what the stretch before it has. Knows Arrow columns
and no tables.

What the rules are, which the tests hold against a loop that looks at every pair:

- A row at the label's very moment counts; a later one never does.
- Of rows of one key and moment the last one given counts.
- A null key matches nothing; a feature row without a time is no row; a label without a time is refused.
- Times carry a zone. Finer than microseconds, labels are rounded down and features up, so that rounding leaks nothing.
- `lookback` is inclusive: a row exactly that old still counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmops.core.errors import UserError
from llmops.core.features.keys import KeyCodes

Ints = npt.NDArray[np.int64]
BATCH_ROWS = 1 << 20
_THREADS = 2
_NEVER = np.iinfo(np.int64).min
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class FeatureRows:
    """Feature rows to join: Arrow batches in one schema, and which of their columns are what."""

    batches: Iterable[Any]
    schema: Any
    keys: tuple[str, ...]
    time: str
    columns: tuple[str, ...]


def join(
    labels: Any, keys: Sequence[str], time: str, features: FeatureRows, *, lookback: timedelta | None = None
) -> Any:
    """The features of each label, in the labels' order: a pyarrow table of `features.columns`, null where none counts.

    Args:
        labels: pyarrow table; `keys` are its columns that meet `features.keys`, in that order; `time` its moments.
        lookback: older feature rows count as none.

    Raises:
        UserError: a column is missing, times have no zone, a label has no time, or key types differ.
    """
    stretches = _Stretches(labels, keys, time, lookback)
    kept = _Kept(stretches.count, features)
    with ThreadPoolExecutor(_THREADS) as pool:
        for batch, found in _placed(pool, stretches, features):
            kept.offer(batch, *found)
    return kept.table(stretches)


def _placed(pool: ThreadPoolExecutor, stretches: _Stretches, features: FeatureRows) -> Iterator[tuple[Any, Any]]:
    """Every batch with its rows' stretches, in order; a few are worked on ahead (numpy and Arrow let go of the GIL)."""
    waiting: deque[tuple[Any, Future[Any]]] = deque()
    for batch in _coalesced(features.batches, features.schema):
        waiting.append((batch, pool.submit(stretches.place, batch, features)))
        if len(waiting) > _THREADS:
            ready, found = waiting.popleft()
            yield ready, found.result()
    for ready, found in waiting:
        yield ready, found.result()


class _Stretches:
    """The labels by key and time, and for a feature row the label whose stretch it falls into."""

    def __init__(self, labels: Any, keys: Sequence[str], time: str, lookback: timedelta | None) -> None:
        for name in (*keys, time):
            if name not in labels.column_names:
                raise UserError(f"the labels have no column `{name}`", hint=f"they have {_listed(labels)}")
        self.codes = KeyCodes([labels[name] for name in keys], keys)
        moments = microseconds(labels[time], time, up=False)
        if moments.null_count:
            raise UserError(
                f"{moments.null_count} labels have no `{time}`", hint="without its moment a label cannot be joined"
            )
        self.lookback = None if lookback is None else lookback // _MICROSECOND
        self.rows = len(labels)
        times = _values(moments)
        joined = np.flatnonzero(self.codes.of_labels >= 0)
        self._set_scale(times[joined])
        places = self._place(self.codes.of_labels[joined], times[joined])
        order = np.argsort(places, kind="stable")
        self.label_of = joined[order]
        self._places = places[order]
        self.code = self.codes.of_labels[self.label_of]
        self.time = times[self.label_of]
        self.count = len(self.label_of)

    def place(self, batch: Any, features: FeatureRows) -> tuple[Ints, Ints, Ints]:
        """The newest row of a batch in each stretch that it has one for: which rows, which stretches, when."""
        moments = microseconds(batch[features.time], features.time, up=True)
        codes = self.codes.of([batch[name] for name in features.keys])
        times = _values(moments.fill_null(_NEVER))
        if not self.count:
            return (np.empty(0, np.int64),) * 3
        rows = np.flatnonzero((codes >= 0) & (times >= self._oldest) & (times <= self._newest))
        codes, times = codes[rows], times[rows]
        wanted = self._place(codes, np.maximum(times, self._first))
        order = np.argsort(wanted)  # sorted, the search walks through memory: five times as quick, sort included
        rows, codes, times, wanted = rows[order], codes[order], times[order], wanted[order]
        found = np.searchsorted(self._places, wanted)
        inside = np.flatnonzero((found < self.count) & (self.code[np.minimum(found, self.count - 1)] == codes))
        return _newest(rows[inside], found[inside], times[inside])

    def _set_scale(self, times: Ints) -> None:
        """Fix how key and time become one sortable number: by the time itself where 63 bits hold it, else its rank."""
        self._first = int(times.min()) if len(times) else 0
        self._newest = int(times.max()) if len(times) else 0
        reach = _NEVER + 1 if self.lookback is None else self._first - self.lookback
        self._oldest = max(reach, _NEVER + 1)
        self._span = self._newest - self._first + 1
        self._ranks: Ints | None = None
        if self.codes.count * self._span >= 1 << 63:
            self._ranks = np.unique(times)
            self._span = len(self._ranks)

    def _place(self, codes: Ints, times: Ints) -> Ints:
        ticks = times - self._first if self._ranks is None else np.searchsorted(self._ranks, times)
        return codes * self._span + ticks


class _Kept:
    """The newest feature row of each stretch so far, its values taken out of the batch that brought it."""

    def __init__(self, count: int, features: FeatureRows) -> None:
        self._features = features
        self._time = np.full(count, _NEVER)
        self._place = np.full(count, -1, np.int64)
        self._schema = pa.schema([_field(features.schema, name) for name in features.columns])
        self._pieces = [self._schema.empty_table()]
        self._size = 0

    def offer(self, batch: Any, rows: Ints, stretches: Ints, times: Ints) -> None:
        """Keep of a batch what is newer than what is kept, or as new: it was given later."""
        newer = np.flatnonzero(times >= self._time[stretches])
        if not len(newer):
            return
        rows, stretches = rows[newer], stretches[newer]
        self._time[stretches] = times[newer]
        self._place[stretches] = self._size + np.arange(len(newer))
        self._pieces.append(pa.Table.from_batches([batch]).select(self._schema.names).take(pa.array(rows)))
        self._size += len(newer)
        if self._size > 4 * max(len(self._place), BATCH_ROWS):
            self._compact()

    def table(self, stretches: _Stretches) -> Any:
        """The kept rows as the labels see them."""
        count = len(self._place)
        last = np.maximum.accumulate(np.where(self._place >= 0, np.arange(count), -1)) if count else self._place
        counts = (last >= 0) & (stretches.code[last] == stretches.code)
        if stretches.lookback is not None:
            counts &= stretches.time - self._time[last] <= stretches.lookback
        found = np.full(stretches.rows, -1, np.int64)
        found[stretches.label_of[counts]] = self._place[last[counts]]
        return pa.concat_tables(self._pieces).take(pa.array(found, mask=found < 0))

    def _compact(self) -> None:
        held = np.flatnonzero(self._place >= 0)
        self._pieces = [pa.concat_tables(self._pieces).take(pa.array(self._place[held])).combine_chunks()]
        self._place[held] = np.arange(len(held))
        self._size = len(held)


def _newest(rows: Ints, stretches: Ints, times: Ints) -> tuple[Ints, Ints, Ints]:
    """One row a stretch, of rows that are ordered by stretch: the newest; of several as new, the last given."""
    if not len(rows):
        return rows, stretches, times
    starts = np.flatnonzero(np.concatenate([[True], np.diff(stretches) != 0]))
    newest = np.maximum.reduceat(times, starts)
    lengths = np.diff(np.append(starts, len(rows)))
    last = np.maximum.reduceat(np.where(times == np.repeat(newest, lengths), rows, -1), starts)
    return last, stretches[starts], newest


def microseconds(column: Any, name: str, *, up: bool) -> Any:
    """A column of moments as whole microseconds since 1970; what is finer is rounded.

    Raises:
        UserError: it holds no times, or times without a zone.
    """
    kind = column.type
    if not pa.types.is_timestamp(kind):
        raise UserError(f"`{name}` holds no times: it is {kind}", hint="it takes a timestamp with a time zone")
    if kind.tz is None:
        raise UserError(f"the times in `{name}` have no zone", hint="say which, as in timestamp[us, tz=UTC]")
    if kind.unit != "ns":
        return pc.cast(pc.cast(column, pa.timestamp("us", tz=kind.tz)), pa.int64())
    whole = pc.cast(column, pa.int64())
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.combine_chunks()
    nanoseconds = _values(whole.fill_null(0))
    rounded = -(-nanoseconds // 1000) if up else nanoseconds // 1000
    return pa.array(rounded, mask=_values(whole.is_null()))


def _coalesced(batches: Iterable[Any], schema: Any) -> Iterator[Any]:
    """Batches of about a million rows: a search costs less a row where it is large."""
    held: list[Any] = []
    rows = 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            held.append(batch.slice(start, BATCH_ROWS))
            rows += held[-1].num_rows
            if rows >= BATCH_ROWS:
                yield _one(held, schema)
                held, rows = [], 0
    if held:
        yield _one(held, schema)


def _one(batches: list[Any], schema: Any) -> Any:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches, schema).combine_chunks().to_batches()[0]


def _field(schema: Any, name: str) -> Any:
    if name not in schema.names:
        raise UserError(f"the features have no column `{name}`", hint=f"they have {', '.join(schema.names)}")
    return schema.field(name).with_nullable(True)


def _values(column: Any) -> Any:
    return column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)


def _listed(table: Any) -> str:
    return ", ".join(table.column_names)
