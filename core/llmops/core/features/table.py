"""What a feature table is: key columns, the moment a row speaks of, and features; and how a model asks for some of it.

Plain data. A declaration becomes a table of the lake (`spec`) and is read back from one (`of_spec`), so a feature table
is described where it lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from llmops.core.errors import NotFoundError, UserError, did_you_mean
from llmops.core.names import Name
from llmops.core.tables import Column, TableSpec

_KEY_TYPES = frozenset({"string", "boolean", "int", "long", "date"})
_FEATURE_TYPES = frozenset({"string", "boolean", "int", "long", "float", "double", "date", "timestamp"})


@dataclass(frozen=True)
class FeatureTable:
    """One feature table. A row says what was known of a key from `timestamp` on.

    Args:
        name: `<schema>.<asset>`: each catalog has a table of its own; or all three levels.
        ttl: a row older than this tells nothing any more, in training as in serving; None: rows do not age.
    """

    name: str
    keys: tuple[Column, ...]
    features: tuple[Column, ...]
    timestamp: str = "event_time"
    ttl: timedelta | None = None
    description: str = ""

    def __post_init__(self) -> None:
        in_catalog(self.name, "dev")
        if not self.keys or not self.features:
            raise UserError("a feature table has at least one key and one feature", where=self.name)
        for column in (*self.keys, *self.features):
            known = _KEY_TYPES if column in self.keys else _FEATURE_TYPES
            if column.type not in known:
                hint = f"it may be {', '.join(sorted(known))}"
                raise UserError(f"`{column.name}` cannot be {column.type}", where=self.name, hint=hint)
        if self.ttl is not None and self.ttl <= timedelta(0):
            raise UserError("`ttl` is a positive time", where=self.name)

    def spec(self, catalog: str) -> TableSpec:
        """The table of the lake that holds it."""
        needed = tuple(Column(key.name, key.type, required=True, description=key.description) for key in self.keys)
        time = Column(self.timestamp, "timestamp", required=True, description="from when on the row holds")
        ttl = {} if self.ttl is None else {"ttl_s": str(self.ttl.total_seconds())}
        return TableSpec(
            Name.parse(in_catalog(self.name, catalog)).asset,
            (*needed, time, *self.features),
            primary_key=(*(key.name for key in self.keys), self.timestamp),
            description=self.description,
            properties={"features": "1", "timestamp": self.timestamp, **ttl},
        )

    @classmethod
    def of_spec(cls, name: str, spec: TableSpec) -> FeatureTable:
        """Read a declaration back.

        Raises:
            UserError: the table is no feature table.
        """
        if "features" not in spec.properties:
            raise UserError(f"`{name}` is not a feature table", hint="declare it with FeatureStore.create")
        time, ttl = spec.properties["timestamp"], spec.properties.get("ttl_s")
        keys = tuple(column for column in spec.columns if column.name in spec.primary_key and column.name != time)
        features = tuple(column for column in spec.columns if column.name not in spec.primary_key)
        age = None if ttl is None else timedelta(seconds=float(ttl))
        return cls(name, keys, features, time, age, spec.description)

    def lookup(
        self, *features: str, keys: tuple[str, ...] = (), lookback: timedelta | None = None, prefix: str = ""
    ) -> Lookup:
        """Ask for some of its features, by default for all.

        Args:
            keys: the columns of the asking table that meet this table's keys, where their names differ.
            lookback: as `ttl`, for this question; the shorter of the two counts.
            prefix: stands before the features' names in the result, where two tables share some.
        """
        columns = {column.name: column for column in self.features}
        for name in features:
            if name not in columns:
                raise NotFoundError(f"no feature `{name}`", where=self.name, hint=did_you_mean(name, columns))
        if keys and len(keys) != len(self.keys):
            raise UserError(f"it has {len(self.keys)} keys, {len(keys)} are given", where=self.name)
        ages = [age for age in (self.ttl, lookback) if age is not None]
        return Lookup(
            table=self.name,
            keys=tuple(key.name for key in self.keys),
            asked_by=keys or tuple(key.name for key in self.keys),
            timestamp=self.timestamp,
            features=tuple(columns[name] for name in features) or self.features,
            lookback=min(ages) if ages else None,
            prefix=prefix,
        )


@dataclass(frozen=True)
class Lookup:
    """Which features of one table a model takes, by which columns of the asking table, and how old they may be."""

    table: str
    keys: tuple[str, ...]
    asked_by: tuple[str, ...]
    timestamp: str
    features: tuple[Column, ...]
    lookback: timedelta | None = None
    prefix: str = ""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The features under the names they have in the result."""
        return tuple(Column(self.prefix + one.name, one.type, description=one.description) for one in self.features)

    def as_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "keys": list(self.keys),
            "asked_by": list(self.asked_by),
            "timestamp": self.timestamp,
            "features": [[column.name, column.type, column.description] for column in self.features],
            "lookback_s": None if self.lookback is None else self.lookback.total_seconds(),
            "prefix": self.prefix,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Lookup:
        return cls(
            table=found["table"],
            keys=tuple(found["keys"]),
            asked_by=tuple(found["asked_by"]),
            timestamp=found["timestamp"],
            features=tuple(Column(name, kind, description=text) for name, kind, text in found["features"]),
            lookback=None if found["lookback_s"] is None else timedelta(seconds=found["lookback_s"]),
            prefix=found["prefix"],
        )


def in_catalog(name: str, catalog: str) -> str:
    """The three-level name of a table: one of two levels lies in `catalog`, one of three says itself where."""
    return str(Name.parse(name if name.count(".") == 2 else f"{catalog}.{name}"))
