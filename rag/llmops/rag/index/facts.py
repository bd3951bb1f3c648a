"""Facts of documents by their values: which documents a filter means, without a look at each of them.

Knows documents by place, and values. Who may know of them is `access`'s.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import UserError
from llmops.rag.index.types import Mask

Places = NDArray[np.int64]

RANGE = frozenset({"from", "to"})
_LAST = "\U0010ffff"


class Facts:
    """The metadata of every document. Columns are made when they are first asked for."""

    def __init__(self, metadata: Iterable[Mapping[str, Any]]) -> None:
        self._metadata = list(metadata)
        self._columns: dict[str, _Column] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Every name that some document has a fact of."""
        distinct = {id(facts): facts for facts in self._metadata}
        return sorted({name for facts in distinct.values() for name in facts})

    def has(self, name: str, among: Mask) -> bool:
        """Whether one of these documents has a fact of that name."""
        return bool(among[self._column(name).places].any())

    def matching(self, name: str, wanted: Any) -> Mask:
        """The documents that a filter admits: by a value, any of several, or a range of them.

        Raises:
            UserError: a range has other keys than `from` and `to`, or none.
        """
        column = self._column(name)
        mask: Mask = np.zeros(len(self._metadata), dtype=np.bool_)
        if isinstance(wanted, Mapping):
            if not wanted or not RANGE.issuperset(wanted):
                raise UserError(f"the range of `{name}` needs `from`, `to` or both", where=f"filters.{name}")
            mask[column.between(wanted.get("from"), wanted.get("to"))] = True
        else:
            for value in wanted if isinstance(wanted, list | tuple | set | frozenset) else (wanted,):
                mask[column.equal(value)] = True
        return mask

    def commonest(self, name: str, among: Mask, most: int) -> list[Hashable]:
        """The values that most of these documents have, at most so many; none that only others have."""
        column = self._column(name)
        counts = column.counts(among)
        best = np.lexsort((np.arange(len(counts)), -counts))[:most]
        return [column.values[place] for place in best if counts[place]]

    def _column(self, name: str) -> _Column:
        with self._lock:
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = _Column(name, self._metadata)
            return column


class _Column:
    """One fact of all documents. One whose value is a list has each of its values."""

    def __init__(self, name: str, metadata: list[Mapping[str, Any]]) -> None:
        found: dict[Hashable, list[int]] = {}
        having: list[int] = []
        for place, facts in enumerate(metadata):
            if name in facts:
                having.append(place)
                value = facts[name]
                for one in value if isinstance(value, list) else (value,):
                    if isinstance(one, Hashable):
                        found.setdefault(one, []).append(place)
        self.places: Places = np.array(having, dtype=np.int64)
        self._by_value = {value: np.array(places, dtype=np.int64) for value, places in found.items()}
        self.values = list(self._by_value)
        self._texts = sorted(value for value in found if isinstance(value, str))
        self._numbers = sorted(value for value in found if isinstance(value, int | float))

    def counts(self, among: Mask) -> Places:
        """How many of these documents have each of `values`."""
        if not self.values:
            return self.places[:0]
        owners = np.repeat(np.arange(len(self.values)), [len(places) for places in self._by_value.values()])
        having = among[np.concatenate(list(self._by_value.values()))]
        return np.bincount(owners[having], minlength=len(self.values))

    def equal(self, value: Any) -> Places:
        return self._by_value.get(value, self.places[:0]) if isinstance(value, Hashable) else self.places[:0]

    def between(self, low: Any, high: Any) -> Places:
        """Those from `low` to `high`, both included; a text counts up to its own length, so `2024` ends in December."""
        ordered: list[Any] = self._texts if isinstance(high if low is None else low, str) else self._numbers
        try:
            first = 0 if low is None else bisect_left(ordered, low)
            after = (
                len(ordered)
                if high is None
                else bisect_right(ordered, high + _LAST if ordered is self._texts else high)
            )
        except TypeError:
            raise UserError("both ends of a range must be texts, or both numbers", where="filters") from None
        chosen = [self._by_value[value] for value in ordered[first:after]]
        return np.concatenate(chosen) if chosen else self.places[:0]
