"""The features of a model, declared once: joined to labels when it is trained, looked up by key when it serves.

Both ways end in the same table: what the caller gives, the looked-up features, then the on-demand ones, in the declared
types. Knows feature tables and the online store's contract, no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from llmops.core.errors import UserError
from llmops.core.features import asof
from llmops.core.features.on_demand import OnDemand, compute, load_functions
from llmops.core.features.table import Lookup, in_catalog
from llmops.core.ids import digest
from llmops.core.tables import Column, TableSpec

if TYPE_CHECKING:
    from llmops.core.features.online import OnlineStore
    from llmops.core.features.store import FeatureStore


@dataclass(frozen=True)
class TableVersion:
    """A table as it was read: what a version's lineage names."""

    table: str
    version: int

    def __str__(self) -> str:
        return f"{self.table}@{self.version}"


@dataclass(frozen=True)
class TrainingSet:
    """Labels with their features, and the tables that was read from."""

    table: pa.Table
    read: tuple[TableVersion, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of columns and values, in order."""
        return table_digest(self.table)


@dataclass(frozen=True)
class FeatureSet:
    """What a model takes: columns of the request, features by lookup, features on demand.

    Args:
        request: columns the caller has to give: the keys of the lookups, and what only the caller knows.
        functions: the file of the on-demand functions; it travels with the model.
        time: the column of moments, in labels and, where the caller gives it, in requests; else a request is of now.
    """

    request: tuple[Column, ...]
    lookups: tuple[Lookup, ...] = ()
    on_demand: tuple[OnDemand, ...] = ()
    functions: Path | None = field(default=None, compare=False)
    time: str = "event_time"

    def __post_init__(self) -> None:
        self.spec()  # two columns of one name, or an unknown type, are told at once
        given = {column.name for column in self.request}
        for lookup in self.lookups:
            if missing := set(lookup.asked_by) - given:
                raise UserError(f"`{min(missing)}` is a key of `{lookup.table}`: the request has to hold it")
        if self.on_demand and self.functions is None:
            raise UserError("on-demand features need the file of their functions")

    @property
    def columns(self) -> tuple[Column, ...]:
        """Every column of the result, in order."""
        looked_up = tuple(column for lookup in self.lookups for column in lookup.columns)
        return (*self.request, *looked_up, *(one.output for one in self.on_demand))

    def spec(self) -> TableSpec:
        return TableSpec("features", self.columns)

    def as_json(self) -> dict[str, Any]:
        """The declaration as it is packed with a model."""
        return {
            "request": [[column.name, column.type, column.description] for column in self.request],
            "lookups": [lookup.as_json() for lookup in self.lookups],
            "on_demand": [one.as_json() for one in self.on_demand],
            "time": self.time,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any], functions: Path | None = None) -> FeatureSet:
        return cls(
            tuple(Column(name, kind, description=text) for name, kind, text in found["request"]),
            tuple(Lookup.from_json(one) for one in found["lookups"]),
            tuple(OnDemand.from_json(one) for one in found["on_demand"]),
            functions,
            found["time"],
        )

    def training_set(
        self, labels: pa.Table, store: FeatureStore, *, at: Mapping[str, int] | None = None
    ) -> TrainingSet:
        """The labels with their features as of each label's moment; other columns of the labels stay in front.

        Args:
            at: read these tables (full names) at these versions instead of their newest.

        Raises:
            NotFoundError: a feature table is missing, or no longer kept at a version.
            UserError: a column of the labels is missing or does not fit.
        """
        table = _with_request(labels, self.request)
        read = []
        for lookup in self.lookups:
            name = in_catalog(lookup.table, store.catalog)
            dataset, version = store.lake.dataset(name, None if at is None else at.get(name))
            read.append(TableVersion(name, version))
            for column, values in zip(lookup.columns, _joined(table, dataset, lookup, self.time), strict=True):
                table = table.append_column(column.name, values)
        return TrainingSet(self._computed(table), tuple(read))

    def resolve(
        self, request: pa.Table, online: OnlineStore | None, catalog: str = "dev", now: datetime | None = None
    ) -> pa.Table:
        """The features of a request: what the caller gives counts, what it leaves out is looked up by key.

        Raises:
            UserError: the request lacks a column, or features that no online store is there to give.
        """
        table = _with_request(request, self.request)
        moments = self._moments(table, now)
        for lookup in self.lookups:
            missing = [column for column in lookup.columns if column.name not in table.column_names]
            found = _looked_up(table, lookup, online, catalog, moments) if missing else {}
            for column in lookup.columns:
                if column in missing:
                    table = table.append_column(column.name, found[column.name])
                else:
                    place = table.column_names.index(column.name)
                    table = table.set_column(place, column.name, _fit(table[column.name], column))
        given = [one.output.name for one in self.on_demand if one.output.name in table.column_names]
        return self._computed(table.drop_columns(given)).select([column.name for column in self.columns])

    def _moments(self, table: pa.Table, now: datetime | None) -> list[datetime]:
        if now is None and self.time in table.column_names:
            return [moment or datetime.now(UTC) for moment in table[self.time].to_pylist()]
        return [now or datetime.now(UTC)] * len(table)

    def _computed(self, table: pa.Table) -> pa.Table:
        if self.functions is None:
            return table
        return compute(table, self.on_demand, load_functions(self.functions))


def table_digest(table: pa.Table) -> str:
    """SHA-256 of a table's columns and values, in order; how it lies in memory does not matter."""
    import io

    sink = io.BytesIO()
    whole = table.combine_chunks().replace_schema_metadata(None)
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    return digest(sink.getvalue())


def _joined(table: pa.Table, dataset: Any, lookup: Lookup, time: str) -> list[Any]:
    newest = pc.max(table[time]) if len(table) else None
    columns = [*lookup.keys, lookup.timestamp, *(column.name for column in lookup.features)]
    late = None if newest is None or not newest.is_valid else ds.field(lookup.timestamp) <= newest
    scanner = dataset.scanner(columns=columns, filter=late)
    schema = scanner.projected_schema
    names = tuple(column.name for column in lookup.features)
    rows = asof.FeatureRows(scanner.to_batches(), schema, lookup.keys, lookup.timestamp, names)
    return list(asof.join(table, lookup.asked_by, time, rows, lookback=lookup.lookback).columns)


def _looked_up(
    table: pa.Table, lookup: Lookup, online: OnlineStore | None, catalog: str, moments: list[datetime]
) -> dict[str, Any]:
    from llmops.core.features.online import key_text

    if online is None:
        wanted = ", ".join(column.name for column in lookup.columns)
        raise UserError(f"the request lacks {wanted}, and there is no online store to look them up")
    columns = [table[name].to_pylist() for name in lookup.asked_by]
    keys = [None if None in values else key_text(values) for values in zip(*columns, strict=True)]
    entries = online.get(in_catalog(lookup.table, catalog), sorted({key for key in keys if key is not None}))
    found = [None if key is None else entries.get(key) for key in keys]
    fresh = [
        None if one is None or (lookup.lookback and moment - one.event_time > lookup.lookback) else one.values
        for one, moment in zip(found, moments, strict=True)
    ]
    return {
        shown.name: _fit(_from_json([None if row is None else row.get(kept.name) for row in fresh], kept), kept)
        for kept, shown in zip(lookup.features, lookup.columns, strict=True)
    }


def _with_request(table: pa.Table, wanted: tuple[Column, ...]) -> pa.Table:
    for column in wanted:
        if column.name not in table.column_names:
            raise UserError(f"the column `{column.name}` is missing", hint=f"there are {', '.join(table.column_names)}")
        place = table.column_names.index(column.name)
        table = table.set_column(place, column.name, _fit(table[column.name], column))
    return table


def _fit(values: Any, column: Column) -> Any:
    kind = TableSpec("features", (column,)).schema().field(0).type
    if values.type == kind:
        return values
    if values.null_count == len(values):  # of no type that means anything: pandas has none for such a column
        return pa.nulls(len(values), kind)
    if pa.types.is_timestamp(kind) and pa.types.is_timestamp(values.type) and values.type.tz is None:
        raise UserError(f"the times in `{column.name}` have no zone")
    try:
        return pc.cast(values, kind)
    except pa.ArrowException as error:
        raise UserError(f"`{column.name}` does not fit {column.type}: {error}") from error


def _from_json(values: list[Any], column: Column) -> Any:
    kind = TableSpec("features", (column,)).schema().field(0).type
    if column.type == "timestamp":
        return pa.array(values, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    if column.type == "date":
        return pa.array(values, pa.int32()).cast(kind)
    return pa.array(values, kind)
