"""On-demand features: Python functions of columns, computed from the request itself, the same in training and serving.

Their source travels with the model as one file. It is loaded from there, under a name of its own, so that two versions
of a model can be in one process, each with its own functions. A function takes one numpy array a named input and gives
one array; numbers and booleans come as float64, NaN where there is none, texts as objects, times as datetime64[us].
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmops.core.errors import UserError
from llmops.core.ids import digest
from llmops.core.tables import Column, TableSpec


@dataclass(frozen=True)
class OnDemand:
    """One computed feature: `function` of the packed file, of these columns, gives this one."""

    output: Column
    function: str
    inputs: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        output = [self.output.name, self.output.type, self.output.description]
        return {"output": output, "function": self.function, "inputs": list(self.inputs)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> OnDemand:
        name, kind, description = found["output"]
        return cls(Column(name, kind, description=description), found["function"], tuple(found["inputs"]))


def load_functions(path: Path) -> ModuleType:
    """Run a file of functions, found by its content: the same text is loaded once a process.

    Raises:
        UserError: the file is missing or does not run.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"the on-demand functions cannot be read: {error.strerror}", where=str(path)) from error
    name = f"llmops_on_demand_{digest(source)[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - a verified version's own code
    except Exception as error:  # the boundary to code that is not ours
        raise UserError(
            f"the on-demand functions do not run: {type(error).__name__}: {error}", where=str(path)
        ) from error
    sys.modules[name] = module
    return module


def compute(table: pa.Table, wanted: Sequence[OnDemand], functions: ModuleType) -> pa.Table:
    """The table with the computed columns added, one after the other: a later one may take an earlier one's output.

    Raises:
        UserError: a function is missing or fails, or gives what does not fit its column.
    """
    for one in wanted:
        function = getattr(functions, one.function, None)
        if not callable(function):
            raise UserError(f"there is no on-demand function `{one.function}`", where=one.output.name)
        arrays = [_array(table, name, one) for name in one.inputs]
        try:
            found = function(*arrays)
        except Exception as error:  # the boundary to code that is not ours
            what = f"the on-demand function `{one.function}` failed: {type(error).__name__}: {error}"
            raise UserError(what, where=one.output.name) from error
        table = table.append_column(one.output.name, _column(found, len(table), one))
    return table


def _array(table: pa.Table, name: str, wanted: OnDemand) -> Any:
    if name not in table.column_names:
        raise UserError(f"`{wanted.output.name}` is computed from `{name}`, which is not there")
    column = table[name]
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return pc.cast(column, pa.float64(), safe=False).to_numpy()
    if pa.types.is_timestamp(kind):
        return pc.cast(column, pa.timestamp("us")).to_numpy()
    return column.to_numpy()


def _column(found: Any, rows: int, wanted: OnDemand) -> Any:
    values = np.asarray(found)
    if values.shape != (rows,):
        what = f"the on-demand function `{wanted.function}` gives shape {values.shape}, not ({rows},)"
        raise UserError(what, where=wanted.output.name)
    kind = TableSpec("on_demand", (wanted.output,)).schema().field(0).type
    try:
        column = pa.array(values, from_pandas=True)
        return pc.cast(column, kind) if column.type != kind else column
    except pa.ArrowException as error:
        raise UserError(
            f"`{wanted.function}` gives no {wanted.output.type}: {error}", where=wanted.output.name
        ) from error
