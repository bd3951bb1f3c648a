"""The held-out rows: read once, cut into slices, and named so that another run can tell whether it has the same.

Knows files, the lake and SQL conditions. What is predicted for the rows, and whether it is right, it does not know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import NotFoundError, UserError
from llmops.core.expressions import evaluate, keep
from llmops.core.ids import digest
from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.registry.evidence import Data
from llmops.registry.gates.spec import DataConfig

_MOST_VALUES = 50
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class HeldOut:
    """Rows with their labels, as a pyarrow table."""

    table: Any
    data: Data
    label: str

    @property
    def features(self) -> Any:
        """The rows as a version may see them."""
        return self.table.drop_columns([self.label])

    @cached_property
    def labels(self) -> NDArray[Any]:
        """What is right, one a row."""
        return np.asarray(self.table.column(self.label).to_pylist())

    def slices(self, wanted: Sequence[str]) -> dict[str, Mask]:
        """The rows of each slice, by name: `region = north`, `amount > 100`, `not (amount > 100)`.

        Raises:
            UserError: an expression does not fit, or a column has too many values to be slices.
        """
        found: dict[str, Mask] = {}
        for slice_ in wanted:
            if slice_ in self.table.column_names:
                found |= self._by_value(slice_)
            else:
                found |= self._by_condition(slice_)
        return found

    def _by_value(self, column: str) -> dict[str, Mask]:
        values = self.table.column(column).to_pylist()
        known = sorted({str(value) for value in values})
        if len(known) > _MOST_VALUES:
            raise UserError(
                f"`{column}` has {len(known):,} values, {_MOST_VALUES} at most make slices",
                where=self.data.table,
                hint=f"write conditions instead, such as `{column} > ...`",
            )
        texts = np.asarray([str(value) for value in values])
        return {f"{column} = {value}": texts == value for value in known}

    def _by_condition(self, condition: str) -> dict[str, Mask]:
        (values,) = evaluate(self.table, [condition])
        if str(values.type) != "bool":
            raise UserError("this slice is neither a column nor a condition", where=condition)
        held = np.asarray([bool(value) for value in values.to_pylist()], dtype=np.bool_)
        return {condition: held, f"not ({condition})": ~held}


def read_heldout(config: DataConfig, state: StateConfig) -> HeldOut:
    """Read the rows.

    Raises:
        NotFoundError: no such file or table.
        UserError: no such column, a filter that does not fit, or no row left.
    """
    table, version = _read(config, state)
    if config.label not in table.column_names:
        raise UserError(
            f"no column `{config.label}` for the label",
            where=config.table,
            hint=f"its columns are {', '.join(table.column_names)}",
        )
    if config.filter is not None:
        table = keep(table, config.filter)
    if table.num_rows == 0:
        raise UserError("no row is left", where=config.table, hint="is the filter too narrow?")
    if table.column(config.label).null_count:
        raise UserError(
            f"{table.column(config.label).null_count:,} rows have no label",
            where=config.table,
            hint=f"leave them out: filter: {config.label} is not null",
        )
    data = Data(
        table=config.table, version=version, filter=config.filter, rows=table.num_rows, digest=content_digest(table)
    )
    return HeldOut(table, data, config.label)


def content_digest(table: Any) -> str:
    """SHA-256 of a table's column names, types and values: equal rows are equal, however they are stored."""
    columns = [
        [name, str(column.type), _values_digest(column)]
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    return digest([table.num_rows, columns])


def _values_digest(column: Any) -> str:
    import pyarrow as pa

    hashed = hashlib.sha256()
    valid = np.asarray(column.is_valid().combine_chunks())
    hashed.update(np.packbits(valid).tobytes())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        hashed.update(np.asarray(column.drop_null().combine_chunks()).tobytes())
    else:
        for value in column.drop_null().to_pylist():
            text = repr(value).encode()
            hashed.update(len(text).to_bytes(8, "big") + text)
    return hashed.hexdigest()


def _read(config: DataConfig, state: StateConfig) -> tuple[Any, str]:
    """The whole table, and which version of it: of a file the digest, of a table of the lake its number."""
    path = Path(config.table)
    if path.suffix in {".parquet", ".csv"}:
        if not path.is_file():
            raise NotFoundError("no such file", where=str(path), hint="paths are relative to the working folder")
        with path.open("rb") as file:
            version = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        return _read_file(path), version
    from llmops.core.lake import Lake

    name = str(Name.parse(config.table))
    dataset, number = Lake(state).dataset(name, config.version)
    return dataset.to_table(), str(number)


def _read_file(path: Path) -> Any:
    import pyarrow as pa

    try:
        if path.suffix == ".csv":
            from pyarrow import csv

            return csv.read_csv(path)
        from pyarrow import parquet

        return parquet.read_table(path)
    except pa.ArrowException as error:
        raise UserError(f"the file cannot be read: {error}", where=str(path)) from error
