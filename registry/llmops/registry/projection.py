"""MLflow's copies of aliases and tags: written after the record moves, compared with it, and put right.

Knows both sides. The record is never changed from here: where the two differ, MLflow is what is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, update

from llmops.core.errors import LlmopsError
from llmops.core.names import Name
from llmops.core.sql import Sql
from llmops.registry import queries, tables, version_tags
from llmops.registry.mlflow_adapter import DIGEST_TAG, KIND_TAG, MlflowStore
from llmops.registry.records import Asset, Kind, Version
from llmops.registry.sequence import mark

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


@dataclass(frozen=True)
class TagDifference:
    """One tag of a version on which MLflow and the record disagree; None: it has no such tag."""

    name: str
    version: int
    key: str
    record: str | None
    mlflow: str | None
    kind: Kind

    def as_json(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("name", "version", "key", "record", "mlflow")}


@dataclass(frozen=True)
class Differences:
    """Where MLflow's copies are not the record's; false where they are."""

    aliases: list[Difference]
    tags: list[TagDifference]

    def __bool__(self) -> bool:
        return bool(self.aliases or self.tags)

    @property
    def names(self) -> list[str]:
        """The assets they are about."""
        return sorted({one.name for one in self.aliases} | {one.name for one in self.tags})

    def as_json(self) -> dict[str, Any]:
        return {"aliases": [one.as_json() for one in self.aliases], "tags": [one.as_json() for one in self.tags]}


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
        _log.warning("MLflow's copies of %s are behind (%s); run `llmops models repair`", name, error.what)
    return False


def lagging(connection: Connection) -> list[Name]:
    """The assets whose copies are known to be behind."""
    query = select(tables.assets.c.name).where(tables.assets.c.mirrored.is_(False)).order_by(tables.assets.c.name)
    return [Name.parse(name) for name in connection.execute(query).scalars()]


def differences(sql: Sql, stores: Stores) -> Differences:
    """Where MLflow's copies of our assets are not the record's; models that are not ours are left alone.

    A tag that MLflow alone has is somebody else's and stays, unless its key is one that promotion alone writes.
    """
    with sql.read() as connection:
        assets, versions = queries.assets(connection), queries.versions(connection)
    catalogs = sorted({asset.name.catalog for asset in assets})
    held = {catalog: stores(catalog).aliases() for catalog in catalogs}
    tagged = {catalog: stores(catalog).tags() for catalog in catalogs}
    wrong_aliases = [one for asset in assets for one in _aliases_apart(asset, held[asset.name.catalog])]
    wrong_tags = [one for version in versions for one in _tags_apart(version, tagged[version.name.catalog])]
    return Differences(wrong_aliases, wrong_tags)


def _aliases_apart(asset: Asset, held: Mapping[str, Mapping[str, int]]) -> Iterator[Difference]:
    theirs = held.get(str(asset.name), {})
    for alias in sorted(asset.aliases.keys() | theirs.keys()):
        ours = asset.aliases.get(alias)
        if ours != theirs.get(alias):
            yield Difference(str(asset.name), alias, ours, theirs.get(alias), asset.kind)


def _tags_apart(version: Version, tagged: Mapping[tuple[str, int], Mapping[str, str]]) -> Iterator[TagDifference]:
    name = str(version.name)
    theirs = tagged.get((name, version.version))
    if theirs is None:
        return  # MLflow has lost the version itself: no tag will bring it back
    ours = {**version.tags, KIND_TAG: version.kind.value, DIGEST_TAG: version.digest}
    for key in sorted(ours.keys() | (theirs.keys() & version_tags.RESERVED)):
        if ours.get(key) != theirs.get(key):
            yield TagDifference(name, version.version, key, ours.get(key), theirs.get(key), version.kind)


def mend(stores: Stores, found: Differences) -> None:
    """Make MLflow's copies equal to the record, as it was when the differences were found."""
    for alias in found.aliases:
        store = stores(Name.parse(alias.name).catalog)
        store.set_alias(alias.name, alias.alias, alias.record, prompt=alias.kind is Kind.PROMPT)
    for tag in found.tags:
        store = stores(Name.parse(tag.name).catalog)
        store.set_tag(tag.name, tag.version, tag.key, tag.record, prompt=tag.kind is Kind.PROMPT)


def doubt(connection: Connection, names: Sequence[Name]) -> None:
    """Have the copies of these assets written once more: the record may have moved while they were mended."""
    for name in names:
        mark(connection, name)
        tags = tables.version_tags
        connection.execute(update(tags).where(tags.c.name == str(name)).values(mirrored=False))


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
