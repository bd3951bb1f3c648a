"""The tables of the lake that every part shares: what was asked and answered, and what people thought of it.

A description is plain data and light to import; `TableSpec.schema` and `to_arrow` bring pyarrow in when called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

import orjson

from llmops.core.errors import NotFoundError, did_you_mean


@dataclass(frozen=True)
class Column:
    """One column; `type` is Delta's word for it."""

    name: str
    type: str = "string"
    required: bool = False


@dataclass(frozen=True)
class TableSpec:
    """A table as it should be. `bodies` are texts that are cut at a limit, with the code that tells so."""

    asset: str
    columns: tuple[Column, ...]
    primary_key: str
    partition_by: str | None = None
    bodies: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(column.name for column in self.columns)

    def schema(self) -> Any:
        """The pyarrow schema."""
        import pyarrow as pa  # noqa: PLC0415

        types = {
            "string": pa.string(),
            "int": pa.int32(),
            "long": pa.int64(),
            "double": pa.float64(),
            "date": pa.date32(),
            "timestamp": pa.timestamp("us", tz="UTC"),
            "decimal(18,9)": pa.decimal128(18, 9),
            "array<string>": pa.list_(pa.string()),
            "map<string,string>": pa.map_(pa.string(), pa.string()),
        }
        return pa.schema([pa.field(c.name, types[c.type], nullable=not c.required) for c in self.columns])


@dataclass(frozen=True)
class BadRow:
    """A row that does not fit its table, by its place among the rows given, and why."""

    place: int
    reason: str


INFERENCE_LOG = TableSpec(
    "inference_log",
    (
        Column("invocation_id", required=True),
        Column("parent_invocation_id"),
        Column("layer", required=True),
        Column("request_id", required=True),
        Column("trace_id"),
        Column("client_request_id"),
        Column("session_id"),
        Column("unit_id_hash"),
        Column("request_time", "timestamp", required=True),
        Column("request_date", "date", required=True),
        Column("endpoint", required=True),
        Column("asset_kind"),
        Column("asset_name"),
        Column("asset_version"),
        Column("alias_at_serve"),
        Column("variant"),
        Column("experiment_id"),
        Column("assignment_p", "double", required=True),
        Column("exposure_n", "long"),
        Column("status_code", "int"),
        Column("error_class"),
        Column("latency_ms", "double"),
        Column("ttfb_ms", "double"),
        Column("queue_ms", "double"),
        Column("input_tokens", "long"),
        Column("output_tokens", "long"),
        Column("cost_usd", "decimal(18,9)"),
        Column("sampling_fraction", "double"),
        Column("request_json"),
        Column("response_json"),
        Column("logging_error_codes", "array<string>"),
        Column("tags", "map<string,string>"),
        Column("requester"),
        Column("shadow_of"),
        Column("prompt_version"),
        Column("index_version"),
        Column("model_version"),
    ),
    primary_key="invocation_id",
    partition_by="request_date",
    bodies={"request_json": "MAX_REQUEST_SIZE_EXCEEDED", "response_json": "MAX_RESPONSE_SIZE_EXCEEDED"},
)

FEEDBACK = TableSpec(
    "feedback",
    (
        Column("feedback_id", required=True),
        Column("request_id", required=True),
        Column("event_time", "timestamp", required=True),
        Column("source", required=True),
        Column("source_id"),
        Column("name", required=True),
        Column("value_num", "double"),
        Column("value_str"),
        Column("rationale"),
        Column("surface_p", "double"),
        Column("valid_from", "timestamp"),
        Column("superseded_by"),
    ),
    primary_key="feedback_id",
)

TABLES = {spec.asset: spec for spec in (INFERENCE_LOG, FEEDBACK)}


def spec_of(table: str) -> TableSpec:
    """The description of a table by its three-level name; its last part says what kind of table it is."""
    asset = table.rpartition(".")[2]
    try:
        return TABLES[asset]
    except KeyError:
        raise NotFoundError(
            f"no table is described as `{asset}`",
            where=table,
            hint=did_you_mean(asset, TABLES) or "see llmops.core.tables",
        ) from None


def to_arrow(spec: TableSpec, rows: Sequence[Mapping[str, Any]]) -> tuple[Any, list[BadRow]]:
    """The rows that fit as a pyarrow table, and those that do not.

    JSON values become the column's type: times from ISO 8601 or microseconds since 1970, decimals from text or numbers.
    A missing `request_date` is the UTC day of `request_time`.
    """
    import pyarrow as pa  # noqa: PLC0415

    readers = [(column, _READERS[column.type]) for column in spec.columns]
    values: list[list[Any]] = [[] for _ in readers]
    bad = []
    for place, row in enumerate(rows):
        try:
            converted = _convert(spec, readers, row)
        except (ValueError, TypeError, InvalidOperation, OverflowError) as error:
            bad.append(BadRow(place, str(error)))
            continue
        for column, value in zip(values, converted, strict=True):
            column.append(value)
    schema = spec.schema()
    return pa.table([pa.array(v, type=f.type) for v, f in zip(values, schema, strict=True)], schema=schema), bad


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
            except (ValueError, TypeError, InvalidOperation, OverflowError) as error:
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
    "int": _int,
    "long": _long,
    "double": _double,
    "date": _date,
    "timestamp": _timestamp,
    "decimal(18,9)": _decimal,
    "array<string>": _strings,
    "map<string,string>": _map,
}
