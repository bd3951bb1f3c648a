"""Reading assets and versions from SQL: what every listing, reference and registration looks up.

Knows the tables and the errors a wrong name deserves; writes nothing, and needs no MLflow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, select

from llmops.core.errors import NotFoundError, did_you_mean
from llmops.core.names import Name, Ref
from llmops.registry import tables, version_tags
from llmops.registry.digest import Manifest
from llmops.registry.records import Asset, Kind, Version

_COLUMNS = [column for column in tables.versions.c if column.name not in {"files", "content"}]


CHAMPION = "champion"
NO_CHAMPION = "no_champion"
"""The error code where nobody is champion: not yet, or no more."""
_KINDS = {kind.value: kind for kind in Kind}


def kind_of(connection: Connection, name: Name) -> Kind | None:
    """What an asset is; None where there is none of this name."""
    found = connection.execute(select(tables.assets.c.kind).where(tables.assets.c.name == str(name))).scalar()
    return None if found is None else Kind(found)


def assets(connection: Connection, *, kind: Kind | None = None, name: Name | None = None) -> list[Asset]:
    """Every asset by name, with its versions counted."""
    columns = tables.versions.c
    query = (
        select(
            tables.assets.c.name,
            tables.assets.c.kind,
            tables.assets.c.created_at,
            func.count().label("total"),
            func.max(columns.version).label("latest"),
            func.max(columns.created_at).label("updated_at"),
        )
        .join(tables.versions, columns.name == tables.assets.c.name)
        .group_by(tables.assets.c.name, tables.assets.c.kind, tables.assets.c.created_at)
        .order_by(tables.assets.c.name)
    )
    query = _only(query, kind, name)
    held = _aliases(connection, name)
    return [
        Asset(
            kind=Kind(row.kind),
            name=Name.parse(row.name),
            versions=row.total,
            latest=row.latest,
            aliases={alias: number for number, names in held[row.name].items() for alias in names},
            created_at=row.created_at,
            updated_at=row.updated_at,
        )
        for row in connection.execute(query)
    ]


def versions(connection: Connection, *, kind: Kind | None = None, name: Name | None = None) -> list[Version]:
    """Every version by name, newest first."""
    query = (
        select(*_COLUMNS, tables.assets.c.kind)
        .join(tables.assets, tables.assets.c.name == tables.versions.c.name)
        .order_by(tables.versions.c.name, tables.versions.c.version.desc())
    )
    held, later = _aliases(connection, name), version_tags.read(connection, name)
    names: dict[str, Name] = {}  # parsed once a name, not once a version
    return [_version(row, held, later, names) for row in connection.execute(_only(query, kind, name))]


def version(connection: Connection, name: Name, number: int) -> Version:
    """One version by its number.

    Raises:
        NotFoundError: says which there are.
    """
    query = select(*_COLUMNS, tables.assets.c.kind).join(tables.assets, tables.assets.c.name == tables.versions.c.name)
    row = connection.execute(
        query.where(tables.versions.c.name == str(name), tables.versions.c.version == number)
    ).first()
    if row is None:
        latest = require_asset(connection, name).latest
        raise NotFoundError(
            f"`{name}` has no version {number}", hint=f"its latest is {name}/{latest}", code="unknown_version"
        )
    return _version(row, _aliases(connection, name), version_tags.read(connection, name, number), {})


def by_digest(connection: Connection, name: Name, digest: str) -> Version | None:
    """The version of this content, None where it is not registered."""
    number = connection.execute(
        select(tables.versions.c.version).where(tables.versions.c.name == str(name), tables.versions.c.digest == digest)
    ).scalar()
    return None if number is None else version(connection, name, number)


def resolve(connection: Connection, ref: Ref) -> Version:
    """The version a reference picks now.

    Raises:
        NotFoundError: no such asset, version or alias; names the nearest.
    """
    if ref.version is not None:
        return version(connection, ref.name, ref.version)
    number = connection.execute(
        select(tables.aliases.c.version).where(
            tables.aliases.c.name == str(ref.name), tables.aliases.c.alias == ref.alias
        )
    ).scalar()
    if number is None:
        held = require_asset(connection, ref.name).aliases
        if ref.alias == CHAMPION:
            hint = f"`llmops models history {ref.name}` tells why; name a version, such as {ref.name}/1, or promote one"
            raise NotFoundError(f"`{ref.name}` has no champion", hint=hint, code=NO_CHAMPION)
        hint = did_you_mean(str(ref.alias), held) or (
            f"its aliases are {', '.join(sorted(held))}" if held else f"it has none; name a version: {ref.name}/1"
        )
        raise NotFoundError(f"`{ref.name}` has no alias `{ref.alias}`", hint=hint, code="unknown_alias")
    return version(connection, ref.name, number)


def require_asset(connection: Connection, name: Name) -> Asset:
    """The asset of this name.

    Raises:
        NotFoundError: names the nearest one.
    """
    found = assets(connection, name=name)
    if found:
        return found[0]
    raise unknown_asset(name, connection.execute(select(tables.assets.c.name)).scalars().all())


def unknown_asset(name: Name, known: Sequence[str]) -> NotFoundError:
    """The error that a wrong name deserves, naming the nearest of the `known`."""
    hint = did_you_mean(str(name), known) or (
        "see `llmops models list`" if known else "nothing is registered yet; `llmops ingest` makes the first chain"
    )
    return NotFoundError(f"no asset `{name}`", hint=hint, code="unknown_asset")


def recorded(connection: Connection, version: Version) -> Manifest | None:
    """The files a version had when it was registered, None where it has no artefact."""
    rows = connection.execute(
        select(tables.versions.c.files).where(
            tables.versions.c.name == str(version.name), tables.versions.c.version == version.version
        )
    ).scalar()
    if rows is None or version.artifact_digest is None:
        return None
    return Manifest.from_rows(rows, expected=version.artifact_digest, where=str(version.ref))


def content(connection: Connection, version: Version) -> str | None:
    """A prompt's text, None for every other kind."""
    found: str | None = connection.execute(
        select(tables.versions.c.content).where(
            tables.versions.c.name == str(version.name), tables.versions.c.version == version.version
        )
    ).scalar()
    return found


def registered_tags(connection: Connection, version: Version) -> dict[str, str]:
    """The tags a version was registered with, without those set later."""
    found: dict[str, str] = connection.execute(
        select(tables.versions.c.tags).where(
            tables.versions.c.name == str(version.name), tables.versions.c.version == version.version
        )
    ).scalar_one()
    return found


def _only(query: Select[Any], kind: Kind | None, name: Name | None) -> Select[Any]:
    if kind is not None:
        query = query.where(tables.assets.c.kind == kind.value)
    return query if name is None else query.where(tables.assets.c.name == str(name))


def _aliases(connection: Connection, name: Name | None) -> dict[str, dict[int, list[str]]]:
    query = select(tables.aliases.c.name, tables.aliases.c.alias, tables.aliases.c.version).order_by(
        tables.aliases.c.alias
    )
    if name is not None:
        query = query.where(tables.aliases.c.name == str(name))
    held: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in connection.execute(query):
        held[row.name][row.version].append(row.alias)
    return held


def _version(
    row: Any,
    held: dict[str, dict[int, list[str]]],
    later: dict[tuple[str, int], dict[str, str]],
    names: dict[str, Name],
) -> Version:
    values = row._asdict()
    text, kind = values.pop("name"), values.pop("kind")
    if text not in names:
        names[text] = Name.parse(text)
    aliases = held.get(text, {}).get(row.version, ())
    if tags := later.get((text, row.version)):
        values["tags"] = {**values["tags"], **tags}
    return Version(kind=_KINDS[kind], name=names[text], aliases=tuple(aliases), **values)
