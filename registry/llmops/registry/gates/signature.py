"""What a model's signature says it takes, beside what the held-out rows have: drift of the schema between the two.

Knows MLflow's signature as it stands in an `MLmodel` file, and Arrow's types; imports neither MLflow nor the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FITS = {
    "boolean": ("bool",),
    "integer": ("int8", "int16", "int32", "uint8", "uint16"),
    "long": ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    "float": ("halffloat", "float", "int8", "int16", "uint8", "uint16"),
    "double": ("halffloat", "float", "double", "int8", "int16", "int32", "uint8", "uint16", "uint32", "int64"),
    "string": ("string", "large_string", "string_view", "dictionary"),
    "binary": ("binary", "large_binary"),
    "datetime": ("timestamp", "date32", "date64"),
}
"""By MLflow's type the Arrow types whose values it takes without loss (whole numbers as doubles, as MLflow does)."""


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    required: bool


def inputs(described: Mapping[str, Any]) -> list[Column] | None:
    """The named columns a model takes; None where it has no signature, or takes tensors without names."""
    told = (described.get("signature") or {}).get("inputs")
    if not told:
        return None
    found = []
    for column in json.loads(told):
        if "name" not in column:
            return None
        found.append(Column(column["name"], str(column.get("type")), bool(column.get("required", True))))
    return found


def drift(columns: Sequence[Column], schema: Any) -> list[str]:
    """What of the signature the rows do not have, or have as something else, in words; a pyarrow schema."""
    found = []
    for column in columns:
        place = schema.get_field_index(column.name)
        if place < 0:
            if column.required:
                found.append(f"`{column.name}` ({column.type}) is missing")
            continue
        held = str(schema.field(place).type)
        fitting = _FITS.get(column.type)
        if fitting is not None and not held.startswith(fitting):
            found.append(f"`{column.name}` is {column.type} in the signature and {held} in the rows")
    return found


def missing_values(columns: Sequence[Column], table: Any) -> list[str]:
    """Required numbers with empty cells: they turn whole columns into another type, and MLflow refuses them."""
    return [
        f"`{column.name}` is empty in {table.column(column.name).null_count:,} rows"
        for column in columns
        if column.required and column.name in table.column_names and table.column(column.name).null_count
    ]
