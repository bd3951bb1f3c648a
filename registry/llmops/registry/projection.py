"""MLflow's copies of the aliases of record: written after the record moves, compared with it, and put right.

Knows both sides. The record is never changed from here: where the two differ, MLflow is what is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmops.core.errors import LlmopsError
from llmops.core.names import Name
from llmops.core.sql import Sql
from llmops.registry import queries
from llmops.registry.mlflow_adapter import MlflowStore
from llmops.registry.records import Alias, Kind

_log = logging.getLogger(__name__)
Stores = Callable[[str], MlflowStore]
"""A catalog's store."""


@dataclass(frozen=True)
class Difference:
    """One alias on which MLflow and the record disagree; None: it has no such alias."""

    name: str
    alias: str
    record: int | None
    mlflow: int | None
    kind: Kind

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "alias": self.alias, "record": self.record, "mlflow": self.mlflow}


def write(store: MlflowStore, alias: Alias, kind: Kind) -> None:
    """Copy an alias that has just moved. Where MLflow does not take it, the record stands, and `repair` finds it."""
    try:
        store.set_alias(str(alias.name), alias.alias, alias.version, prompt=kind is Kind.PROMPT)
    except LlmopsError as error:
        _log.warning(
            "MLflow's copy of %s@%s is behind (%s); run `llmops models repair`", alias.name, alias.alias, error.what
        )


def differences(sql: Sql, stores: Stores) -> list[Difference]:
    """Where MLflow's aliases of our assets are not the record's; models that are not ours are left alone."""
    with sql.read() as connection:
        assets = queries.assets(connection)
    held = {catalog: stores(catalog).aliases() for catalog in sorted({asset.name.catalog for asset in assets})}
    found = []
    for asset in assets:
        theirs = held[asset.name.catalog].get(str(asset.name), {})
        for alias in sorted(asset.aliases.keys() | theirs.keys()):
            ours = asset.aliases.get(alias)
            if ours != theirs.get(alias):
                found.append(Difference(str(asset.name), alias, ours, theirs.get(alias), asset.kind))
    return found


def mend(stores: Stores, difference: Difference) -> None:
    """Make MLflow's alias equal to the record's."""
    store = stores(Name.parse(difference.name).catalog)
    store.set_alias(difference.name, difference.alias, difference.record, prompt=difference.kind is Kind.PROMPT)
