"""Feature tables in the lake: declared, written so that a key and moment have one row, described, read at a version.

Knows the lake and Arrow. What a model does with features it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmops.core.delta import Transaction
from llmops.core.errors import IntegrityError, NotFoundError, UserError
from llmops.core.features.table import FeatureTable, in_catalog
from llmops.core.lake import Lake, rows_of
from llmops.core.tables import TableSpec


class FeatureStore:
    """The feature tables of one catalog. As thread-safe as its lake."""

    def __init__(self, lake: Lake, catalog: str = "dev") -> None:
        self.lake = lake
        self.catalog = catalog

    def name(self, table: FeatureTable | str) -> str:
        """The full name of a table of this catalog."""
        return in_catalog(table if isinstance(table, str) else table.name, self.catalog)

    def create(self, table: FeatureTable) -> str:
        """Make a feature table, or bring the one there is to this declaration; gives its full name.

        Raises:
            IntegrityError: the table that is there has other keys, or a feature of another type.
        """
        name = self.name(table)
        self.lake.declare(name, table.spec(self.catalog))
        return name

    def tables(self) -> list[str]:
        """The full names of this catalog's feature tables."""
        found = []
        for name in self.lake.tables():
            if name.startswith(f"{self.catalog}."):
                try:
                    self.describe(name)
                except (UserError, NotFoundError):
                    continue
                found.append(name)
        return found

    def describe(self, table: str) -> FeatureTable:
        """The declaration of a table.

        Raises:
            NotFoundError: there is no such table.
            UserError: it is no feature table.
        """
        return FeatureTable.of_spec(table, self.lake.spec(self.name(table)))

    def write(
        self,
        table: FeatureTable | str,
        rows: Sequence[Mapping[str, Any]] | pa.Table,
        transaction: tuple[str, int] | None = None,
    ) -> int | None:
        """Write rows in one durable commit; a row of a key and moment that is there takes that row's place.

        Args:
            rows: JSON values, or a pyarrow table whose columns are those declared (missing features are null).
            transaction: names this write, so that its repeat after a crash does nothing and gives None.

        Raises:
            IntegrityError: a row does not fit, or two have the same key and moment; nothing is written.
            ConflictError: another process is writing the table.
        """
        name = self.name(table)
        spec = self.lake.spec(name)
        arrow = _fitted(spec, name, rows) if isinstance(rows, pa.Table) else rows_of(spec, name, rows)
        arrow = _finite(arrow, name)
        _require_distinct(arrow, spec.primary_key, name)
        marks = [] if transaction is None else [Transaction(*transaction)]
        return self.lake.merge_arrow(name, arrow, marks)

    def read(self, table: FeatureTable | str, version: int | None = None) -> tuple[Any, int]:
        """A table as a pyarrow dataset, and the version it is: the newest, or the one asked for."""
        return self.lake.dataset(self.name(table), version)


def _fitted(spec: TableSpec, name: str, arrow: pa.Table) -> pa.Table:
    """Arrow columns in the table's own order and types; what would lose something by it is refused."""
    schema = spec.schema()
    if unknown := sorted(set(arrow.column_names) - spec.names):
        raise IntegrityError(f"unknown column `{unknown[0]}`", where=name, hint="nothing was written")
    columns = []
    for field in schema:
        if field.name not in arrow.column_names:
            columns.append(pa.nulls(len(arrow), field.type))
        else:
            columns.append(_cast(arrow[field.name], field, name))
        if not field.nullable and columns[-1].null_count:
            raise IntegrityError(f"column `{field.name}` is required", where=name, hint="nothing was written")
    return pa.table(columns, schema=schema)


def _cast(column: Any, field: Any, name: str) -> Any:
    if pa.types.is_timestamp(column.type) and column.type.tz is None:
        raise IntegrityError(f"the times in `{field.name}` have no zone", where=name, hint="nothing was written")
    try:
        return pc.cast(column, field.type)
    except pa.ArrowException as error:
        raise IntegrityError(f"column `{field.name}` does not fit: {error}", where=name) from error


def _finite(arrow: pa.Table, name: str) -> pa.Table:
    """Not-a-number becomes null, so that training and serving, which goes over JSON, see the same."""
    for place, field in enumerate(arrow.schema):
        if not pa.types.is_floating(field.type):
            continue
        column = arrow[field.name]
        if pc.any(pc.is_inf(column)).as_py():
            hint = "write null where there is no value; nothing was written"
            raise IntegrityError(f"column `{field.name}` has an infinite value", where=name, hint=hint)
        if pc.any(pc.is_nan(column)).as_py():
            null = pa.scalar(None, field.type)
            arrow = arrow.set_column(place, field, pc.if_else(pc.is_nan(column), null, column))
    return arrow


def _require_distinct(arrow: pa.Table, key: Sequence[str], name: str) -> None:
    counts = arrow.group_by(list(key), use_threads=False).aggregate([([], "count_all")])
    if len(counts) == len(arrow):
        return
    twice = counts.filter(pc.field("count_all") > 1).slice(0, 1).select(list(key)).to_pylist()[0]
    shown = ", ".join(f"{column}={value}" for column, value in twice.items())
    raise IntegrityError(f"two rows have the same key and moment ({shown})", where=name, hint="nothing was written")
