"""MLflow's copies of the aliases of record: written after the record moves, compared with it, and put right.

Knows both sides. The record is never changed from here: where the two differ, MLflow is what is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, update

from llmops.core.errors import LlmopsError
from llmops.core.names import Name
from llmops.core.sql import Sql
from llmops.registry import queries, tables
from llmops.registry.mlflow_adapter import MlflowStore
from llmops.registry.records import Kind

_log = logging.getLogger(__name__)
_LOOKS = 5
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


def follow(sql: Sql, store: MlflowStore, name: Name) -> bool:
    """Bring MLflow's copies of an asset's aliases and tags up to the record; False where they stay behind.

    Called after each commit, and again by whoever comes next where a kill fell between. Two processes that do so at
    once end with the newer record: each looks again whether it has moved. Where MLflow does not take it, the record
    stands, and `repair` finds it.
    """
    try:
        for _ in range(_LOOKS):
            with sql.read() as connection:
                behind = _behind(connection, name)
            if behind is None:
                return True
            _write(store, behind)
            with sql.begin() as connection:
                _caught_up(connection, behind)
    except LlmopsError as error:
        _log.warning("MLflow's copies of %s's aliases are behind (%s); run `llmops models repair`", name, error.what)
    return False


def lagging(connection: Connection) -> list[Name]:
    """The assets whose copies are known to be behind."""
    query = select(tables.assets.c.name).where(tables.assets.c.mirrored.is_(False)).order_by(tables.assets.c.name)
    return [Name.parse(name) for name in connection.execute(query).scalars()]


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


@dataclass(frozen=True)
class _Behind:
    """The record of one asset, as it was when `last_id` was its newest id."""

    name: Name
    kind: Kind
    last_id: str
    aliases: dict[str, int]
    tags: dict[tuple[int, str], str]


def _behind(connection: Connection, name: Name) -> _Behind | None:
    row = connection.execute(select(tables.assets).where(tables.assets.c.name == str(name))).first()
    if row is None or row.mirrored:
        return None
    held, tags = tables.aliases.c, tables.version_tags.c
    aliases = connection.execute(select(held.alias, held.version).where(held.name == str(name)))
    due = connection.execute(
        select(tags.version, tags.key, tags.value).where(tags.name == str(name), tags.mirrored.is_(False))
    )
    return _Behind(
        name,
        Kind(row.kind),
        row.last_id,
        {item.alias: item.version for item in aliases},
        {(item.version, item.key): item.value for item in due},
    )


def _write(store: MlflowStore, behind: _Behind) -> None:
    name, prompt = str(behind.name), behind.kind is Kind.PROMPT
    theirs = store.aliases_of(name, prompt=prompt)
    for alias in sorted(behind.aliases.keys() | theirs.keys()):
        ours = behind.aliases.get(alias)
        if ours != theirs.get(alias):
            store.set_alias(name, alias, ours, prompt=prompt)
    for (version, key), value in sorted(behind.tags.items()):
        store.set_tag(name, version, key, value, prompt=prompt)


def _caught_up(connection: Connection, behind: _Behind) -> None:
    """Note that the copies are as the record was; where it has moved meanwhile, they are behind still."""
    here = (tables.assets.c.name == str(behind.name)) & (tables.assets.c.last_id == behind.last_id)
    if connection.execute(update(tables.assets).where(here).values(mirrored=True)).rowcount == 1:
        tags = tables.version_tags.c
        done = (tags.name == str(behind.name)) & tags.mirrored.is_(False)
        connection.execute(update(tables.version_tags).where(done).values(mirrored=True))
