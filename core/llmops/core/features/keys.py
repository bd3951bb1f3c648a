"""Keys as small whole numbers: every key that the labels hold has a code, every other key has none.

Knows Arrow columns; that they belong to features it does not know. Keys are equal across the widths of a type (int32
and int64, string and large_string), never across types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmops.core.errors import UserError

Codes = npt.NDArray[np.int64]


class KeyCodes:
    """Codes 0, 1, 2, ... of the distinct keys of some columns. A null in a key matches nothing: its code is -1."""

    def __init__(self, columns: Sequence[Any], names: Sequence[str]) -> None:
        self._names = tuple(names)
        normal = [_normal(column, name) for column, name in zip(columns, names, strict=True)]
        self._values = [pc.drop_null(pc.unique(column)) for column in normal]
        self._levels: list[Codes] = []
        codes = self._places(normal[0], 0)
        for level in range(1, len(normal)):
            mixed = self._mixed(codes, self._places(normal[level], level), level)
            self._levels.append(np.unique(mixed[mixed >= 0]))
            codes = _found(self._levels[-1], mixed)
        self.of_labels = codes
        self.count = len(self._levels[-1]) if self._levels else len(self._values[0])

    def of(self, columns: Sequence[Any]) -> Codes:
        """The codes of other rows; -1 for a key that the labels do not hold."""
        normal = [_normal(column, name) for column, name in zip(columns, self._names, strict=True)]
        codes = self._places(normal[0], 0)
        for level, known in enumerate(self._levels, start=1):
            codes = _found(known, self._mixed(codes, self._places(normal[level], level), level))
        return codes

    def _places(self, column: Any, level: int) -> Codes:
        values = self._values[level]
        if column.type != values.type:
            raise UserError(
                f"the key `{self._names[level]}` is {column.type} on one side and {values.type} on the other",
                hint="cast one of them; keys are not converted silently",
            )
        places: Codes = _numpy(pc.fill_null(pc.index_in(column, value_set=values), -1)).astype(np.int64)
        return places

    def _mixed(self, codes: Codes, places: Codes, level: int) -> Codes:
        return np.where((codes < 0) | (places < 0), -1, codes * max(1, len(self._values[level])) + places)


def _found(known: Codes, wanted: Codes) -> Codes:
    """The place of each value in the sorted `known`, -1 where it is not there."""
    if not len(known):
        return np.full(len(wanted), -1, np.int64)
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    found: Codes = np.where(known[places] == wanted, places, -1)
    return found


def _normal(column: Any, name: str) -> Any:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _normal(pc.cast(column, kind.value_type), name)
    if pa.types.is_integer(kind):
        return pc.cast(column, pa.int64())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pc.cast(column, pa.string())
    if pa.types.is_date32(kind) or pa.types.is_boolean(kind):
        return column
    raise UserError(f"`{name}` cannot be a key: it is {kind}", hint="keys are texts, whole numbers, dates or booleans")


def _numpy(column: Any) -> Any:
    return column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
