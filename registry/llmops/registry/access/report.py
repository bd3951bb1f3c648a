"""Who holds what, and why, for people: by principal, by place, or everything that is on record.

Knows how to word what `rights` decides. A principal of whom only a name is known has the groups of its key, or none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from llmops.core.identity import EVERYONE, LOCAL, Principal
from llmops.core.keys import KEYS
from llmops.core.names import CATALOGS
from llmops.core.sql import Sql
from llmops.registry import tables as registry_tables
from llmops.registry.access import tables
from llmops.registry.access.control import Access
from llmops.registry.access.privileges import Privilege
from llmops.registry.access.rights import GROUP, Rights
from llmops.registry.access.securables import EVERYTHING, Securable

_KEY = "key:"


@dataclass(frozen=True)
class Holding:
    """One privilege (or ownership) of one principal on one place; `effective` says whether it can be used."""

    principal: str
    privilege: str
    securable: Securable
    why: str
    effective: bool = True

    def as_json(self) -> dict[str, Any]:
        return {
            "principal": self.principal,
            "privilege": self.privilege,
            "securable": str(self.securable),
            "why": self.why,
            "effective": self.effective,
        }


def as_place(sql: Sql, word: str) -> Securable | None:
    """The place that a word names; None where it names a principal, as most words can be either."""
    if word == "*" or word.startswith("tag:") or word.endswith(".*"):
        return Securable.of(word)
    if ":" in word or "@" in word:
        return None
    with sql.read() as connection:
        granted = connection.execute(select(tables.grants.c.securable).distinct()).scalars()
        known = {*granted, *connection.execute(select(registry_tables.assets.c.name)).scalars()}
    catalogs = {*CATALOGS, *(name.partition(".")[0] for name in known)}
    return Securable.of(word) if word.partition(".")[0] in catalogs else None


def on_record(connection: Connection) -> list[Holding]:
    """Every owner and every grant as they were given."""
    owners = connection.execute(select(tables.owners).order_by(tables.owners.c.securable))
    found = [
        Holding(row.owner, "OWNER", Securable.of(row.securable), f"set by {row.set_by}, {row.since:%F %R}")
        for row in owners
    ]
    column = tables.grants.c
    grants = connection.execute(select(tables.grants).order_by(column.securable, column.grantee, column.privilege))
    for row in grants:
        why = f"granted by {row.granted_by}, {row.granted_at:%F %R}"
        found.append(Holding(row.grantee, row.privilege, Securable.of(row.securable), why))
    return found


def of_principal(connection: Connection, access: Access, principal: Principal) -> list[Holding]:
    """What a principal was granted and owns, itself or by its groups, and what keeps it from using some of it."""
    name, rights = principal.id, access.rights(connection, principal)
    found = [
        Holding(name, "OWNER", place, "it owns this" if by == name else f"{by} owns this")
        for place, by in sorted(rights.owned.items())
    ]
    for place, privileges in sorted(rights.granted.items()):
        for privilege, to in sorted(privileges.items()):
            what = "granted" if to == name else f"granted to {to}"
            hindrance = _hindrance(rights, privilege, place)
            found.append(
                Holding(name, privilege.value, place, f"{what}, but {hindrance}" if hindrance else what, not hindrance)
            )
    return found


def of_place(connection: Connection, access: Access, place: Securable) -> list[Holding]:
    """Everybody who may do something at a place, with the reason for each privilege."""
    found = []
    for name in sorted(_named(connection, place)):
        rights = access.rights(connection, known(connection, name), near=place)
        if not rights.enforced:
            return []
        found += [Holding(name, held.privilege.value, place, held.why) for held in rights.held(place)]
    return found


def known(connection: Connection, name: str) -> Principal:
    """A principal of this name, with what is known of it."""
    if name == LOCAL.id:
        return LOCAL
    if name.startswith(GROUP):
        group = name.removeprefix(GROUP)
        return Principal(name, "service", _groups((group,)))
    if name.startswith(_KEY):
        groups = connection.execute(select(KEYS.c.groups).where(KEYS.c.key_id == name.removeprefix(_KEY))).scalar()
        return Principal(name, "key", _groups(groups or ()))
    return Principal(name, "person")


def _hindrance(rights: Rights, privilege: Privilege, place: Securable) -> str | None:
    if rights.refused_outright(privilege, place):
        return f"only service principals write to {place.catalog}"
    gate = rights.closed_gate(privilege, place)
    if gate is not None:
        return f"it lacks {gate[0].value} on {gate[1]}"
    whole = privilege is Privilege.ALL_PRIVILEGES
    return None if whole or rights.why(privilege, place) else "it lacks what this needs too"


def _named(connection: Connection, place: Securable) -> set[str]:
    line = [str(at) for at in place.line()]
    grants, owners, assets = tables.grants.c, tables.owners.c, registry_tables.assets.c
    found: set[str] = set()
    for query in (
        select(grants.grantee).where(grants.securable.in_(line)),
        select(owners.owner).where(owners.securable.in_(line)),
        select(assets.created_by).where(assets.name.in_(line)),
    ):
        found.update(connection.execute(query).scalars())
    return found | ({LOCAL.id} if str(EVERYTHING) in line and not found else set())


def _groups(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names) - {EVERYONE}
