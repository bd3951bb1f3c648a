"""Turns rows of JSON values into the columns of a table, and says of each row that does not fit why.

A batch goes column by column where its values have the plain types; where something is off, row by row, to find what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from llmops.core.tables import Column, TableSpec


@dataclass(frozen=True)
class BadRow:
    """A row that does not fit its table, by its place among the rows given, and why."""

    place: int
    reason: str


def to_arrow(spec: TableSpec, rows: Sequence[Mapping[str, Any]]) -> tuple[Any, list[BadRow]]:
    """The rows that fit as a pyarrow table, and those that do not.

    JSON values become the column's type: times from ISO 8601 or microseconds since 1970, decimals from text or numbers.
    A missing `request_date` is the UTC day of `request_time`.
    """
    import pyarrow as pa

    if not rows:
        return spec.schema().empty_table(), []
    schema = spec.schema()
    columns = _by_column(spec, rows)
    bad: list[BadRow] = []
    if columns is None:
        columns, bad = _by_row(spec, rows)
    return pa.table([pa.array(v, type=f.type) for v, f in zip(columns, schema, strict=True)], schema=schema), bad


def _by_column(spec: TableSpec, rows: Sequence[Mapping[str, Any]]) -> list[list[Any]] | None:
    """The columns of rows whose values all have the plain types; None where some have not. Four times as fast."""
    if not set().union(*rows) <= spec.names:
        return None
    columns: dict[str, list[Any]] = {}
    for column in spec.columns:
        values = [row.get(column.name) for row in rows]
        types = set(map(type, values)) - {type(None)}
        if column.name == "request_date" and not types and "request_time" in columns:
            values = [None if time is None else time.date() for time in columns["request_time"]]
        elif not types <= _PLAIN[column.type]:
            return None
        elif types - _AS_THEY_ARE.get(column.type, set()):
            read = _READERS[column.type]
            try:
                values = [None if value is None else read(value) for value in values]
            except _DOES_NOT_FIT:
                return None
        elif types and column.type in _RANGES and not _in_range(column.type, values):
            return None
        if column.required and None in values:
            return None
        columns[column.name] = values
    return list(columns.values())


def _in_range(kind: str, values: list[Any]) -> bool:
    low, high = _RANGES[kind]
    return all(value is None or low <= value < high for value in values)


def _by_row(spec: TableSpec, rows: Sequence[Mapping[str, Any]]) -> tuple[list[list[Any]], list[BadRow]]:
    readers = [(column, _READERS[column.type]) for column in spec.columns]
    columns: list[list[Any]] = [[] for _ in readers]
    bad = []
    for place, row in enumerate(rows):
        try:
            converted = _convert(spec, readers, row)
        except _DOES_NOT_FIT as error:
            bad.append(BadRow(place, str(error)))
            continue
        for column, value in zip(columns, converted, strict=True):
            column.append(value)
    return columns, bad


def _convert(spec: TableSpec, readers: list[tuple[Column, Callable[[Any], Any]]], row: Mapping[str, Any]) -> list[Any]:
    if not row.keys() <= spec.names:
        unknown = min(row.keys() - spec.names)
        raise ValueError(f"unknown column `{unknown}`")
    converted = []
    for column, read in readers:
        value = row.get(column.name)
        if value is None and column.name == "request_date" and row.get("request_time") is not None:
            value = _timestamp(row["request_time"]).date()
        if value is not None:
            try:
                value = read(value)
            except _DOES_NOT_FIT as error:
                raise ValueError(f"column `{column.name}` ({column.type}): {error}") from error
        elif column.required:
            raise ValueError(f"column `{column.name}` is required")
        converted.append(value)
    return converted


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"not a text: {value!r}")


def _long(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError(f"not a whole number: {value!r}")
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise OverflowError(f"too large: {value!r}")
    return number


def _int(value: Any) -> int:
    number = _long(value)
    if not -(2**31) <= number < 2**31:
        raise OverflowError(f"too large: {value!r}")
    return number


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"neither true nor false: {value!r}")
    return value


def _double(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError(f"not a number: {value!r}")
    return float(value)


def _timestamp(value: Any) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        return datetime.fromtimestamp(value // 1_000_000, UTC).replace(microsecond=value % 1_000_000)
    if not isinstance(value, datetime):
        raise TypeError(f"not a time: {value!r}")
    if value.tzinfo is None:
        raise ValueError(f"a time needs a time zone: {value!r}")
    return value.astimezone(UTC)


def _date(value: Any) -> date:
    if isinstance(value, datetime):
        return value.date()
    return value if isinstance(value, date) else date.fromisoformat(value)


def _decimal(value: Any) -> Decimal:
    number = Decimal(str(value)).quantize(Decimal("1e-9"))
    if abs(number) >= 10**9:
        raise OverflowError(f"too large: {value!r}")
    return number


def _strings(value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"not a list: {value!r}")
    return [_string(item) for item in value]


def _map(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        raise TypeError(f"not a mapping: {value!r}")
    return [(str(key), _string(item)) for key, item in value.items() if item is not None]


_READERS: dict[str, Callable[[Any], Any]] = {
    "string": _string,
    "boolean": _boolean,
    "int": _int,
    "long": _long,
    "float": _double,
    "double": _double,
    "date": _date,
    "timestamp": _timestamp,
    "decimal(18,9)": _decimal,
    "array<string>": _strings,
    "map<string,string>": _map,
}

_DOES_NOT_FIT = (ValueError, TypeError, InvalidOperation, OverflowError, OSError)
_PLAIN: dict[str, set[type]] = {
    "string": {str, int},
    "boolean": {bool},
    "int": {int},
    "long": {int},
    "float": {float, int},
    "double": {float, int},
    "date": {str},
    "timestamp": {str, int},
    "decimal(18,9)": {str, int, float},
    "array<string>": {list},
    "map<string,string>": {dict},
}
_AS_THEY_ARE: dict[str, set[type]] = {
    "string": {str}, "boolean": {bool}, "int": {int}, "long": {int}, "float": {float}, "double": {float},
}  # fmt: skip
_RANGES = {"int": (-(2**31), 2**31), "long": (-(2**63), 2**63)}
