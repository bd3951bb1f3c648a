"""Which rows stand in which step: a function of the seed, the step and the examples' ids, and of nothing else.

So a resumed run goes on at a step by computing it; no random state is kept, and neither the order in which files were
read nor the number of ranks matters. Every epoch is a permutation of all rows, or a mixture with exact shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmops.core.errors import ConflictError
from llmops.finetune.data.mixing import shares, spread
from llmops.finetune.data.packing import Document, PackedRow, best_fit_decreasing
from llmops.finetune.data.rows import TokenRows, mixed

_WINDOW = 8192
"""Examples packed together: enough for full rows, few enough that long and short ones are spread over an epoch."""
Bins = list[list[int]]


@dataclass(frozen=True)
class Step:
    """What one update learns from: always the same number of packed rows, whichever step it is.

    Args:
        number: from 0.
        epoch: how often all rows were seen before; of the step's first row.
    """

    number: int
    epoch: int
    rows: tuple[PackedRow, ...]

    @property
    def ids(self) -> list[str]:
        """Of the examples, and parts of them, in it; for the ledger."""
        return [document.id for row in self.rows for document in row]


class Feed(Protocol):
    """Steps one after the other, from any of them on."""

    def take(self) -> Step:
        """The next step."""
        ...

    def position(self) -> dict[str, Any]:
        """JSON for a checkpoint: where `take` will go on."""
        ...

    def go_to(self, position: dict[str, Any]) -> None:
        """Go on where `position` was taken.

        Raises:
            ConflictError: it is a position in other data, or in other steps.
        """
        ...


class Order:
    """The rows of every epoch, as packed rows of their places.

    Args:
        keys: 64 bits of each row, of its example's id.
        sources: the number of each row's source.
        weights: of each source; None: every row once an epoch.
        capacity: tokens of a packed row; None: one document a row.
    """

    def __init__(
        self,
        keys: npt.NDArray[np.uint64],
        lengths: npt.NDArray[Any],
        sources: npt.NDArray[np.int32],
        *,
        seed: int,
        weights: Sequence[float] | None = None,
        capacity: int | None = None,
    ) -> None:
        self._keys, self._lengths, self._sources = keys, lengths, sources
        self._seed, self._weights, self._capacity = seed, weights, capacity
        self._ends: list[int] = []
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def epoch_end(self, epoch: int) -> int:
        """How many packed rows there are up to the end of an epoch."""
        while len(self._ends) <= epoch:
            number = len(self._ends)
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self.epoch(number)))
        return self._ends[epoch]

    def row(self, number: int) -> tuple[int, list[int]]:
        """The epoch of the packed row of this number, counted over all epochs, and the places in it."""
        epoch = max(0, int(np.searchsorted(self._ends, number, side="right")))
        while self.epoch_end(epoch) <= number:
            epoch += 1
        begin = self.epoch_end(epoch - 1) if epoch else 0
        return epoch, self.epoch(epoch)[number - begin]

    def _epoch(self, number: int) -> Bins:
        sequence = self._sequence(number)
        if self._capacity is None:
            return [[int(place)] for place in sequence]
        found: Bins = []
        for start in range(0, len(sequence), _WINDOW):
            window = sequence[start : start + _WINDOW]
            bins = best_fit_decreasing(self._lengths[window], self._capacity)
            keys = mixed(self._keys[window[[one[0] for one in bins]]] ^ _salt(self._seed, number, 1))
            found += [window[bins[place]].tolist() for place in np.argsort(keys, kind="stable")]
        return found

    def _sequence(self, epoch: int) -> npt.NDArray[np.int64]:
        """The rows of an epoch one after the other, as drawn."""
        everything = np.arange(len(self._keys))
        if self._weights is None:
            return self._shuffled(everything, epoch)
        counts = shares(self._weights, len(everything))
        drawn = spread(counts)
        sequence = np.empty(len(everything), np.int64)
        for source, count in enumerate(counts):
            sequence[drawn == source] = self._drawn(np.flatnonzero(self._sources == source), epoch * count, count)
        return sequence

    def _drawn(self, own: npt.NDArray[np.int64], start: int, count: int) -> npt.NDArray[np.int64]:
        """The draws of one source from `start` on: pass after pass over its rows."""
        if not count:
            return own[:0]
        first, last = start // len(own), (start + count - 1) // len(own)
        passes = np.concatenate([self._shuffled(own, one) for one in range(first, last + 1)])
        return np.asarray(passes[start - first * len(own) :][:count])

    def _shuffled(self, places: npt.NDArray[np.int64], number: int) -> npt.NDArray[np.int64]:
        keys = self._keys[places]
        return places[np.lexsort((places, keys, mixed(keys ^ _salt(self._seed, number, 0))))]


class RowFeed:
    """Steps over rows that lie on the disk, in the order that `Order` says."""

    def __init__(self, rows: TokenRows, order: Order, *, rows_per_step: int, data: str) -> None:
        self._rows, self._order, self._rows_per_step, self._data = rows, order, rows_per_step, data
        self._next = 0

    def steps(self, epochs: float) -> int:
        """How many steps it takes to see all rows so often; the last one may begin the next epoch."""
        whole = int(epochs)
        packed = self._order.epoch_end(whole - 1) if whole else 0
        if epochs > whole:
            packed += round((epochs - whole) * len(self._order.epoch(whole)))
        return max(1, -(-packed // self._rows_per_step))

    def step(self, number: int) -> Step:
        """Any step, without those before it."""
        first = number * self._rows_per_step
        found = [self._order.row(place) for place in range(first, first + self._rows_per_step)]
        return Step(number, found[0][0], tuple(tuple(self._document(one) for one in row) for _, row in found))

    def take(self) -> Step:
        step = self.step(self._next)
        self._next += 1
        return step

    def position(self) -> dict[str, Any]:
        return {"data": self._data, "rows_per_step": self._rows_per_step, "step": self._next}

    def go_to(self, position: dict[str, Any]) -> None:
        require_same(position, data=self._data, rows_per_step=self._rows_per_step)
        self._next = int(position["step"])

    def _document(self, place: int) -> Document:
        return Document(self._rows.id(place), *self._rows.arrays(place))


def require_same(position: dict[str, Any], **expected: Any) -> None:
    """A position counts only in the data and the steps that it was taken in."""
    for name, value in expected.items():
        if position.get(name) != value:
            what = "other data" if name == "data" else f"{name} {position.get(name)}, and it is {value} now"
            raise ConflictError(
                f"the checkpoint's position was taken with {what}",
                hint="resume with the data and the step size that the run began with, or start a new run",
                code="position_of_other_data",
            )


def _salt(seed: int, number: int, use: int) -> np.uint64:
    values = np.asarray([seed % 2**64, number, use], np.uint64)
    salt = np.zeros(1, np.uint64)
    for value in values:
        salt = mixed(salt + value + np.uint64(0x9E3779B97F4A7C15))
    return np.uint64(salt[0])
