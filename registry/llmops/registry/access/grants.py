"""Giving and taking privileges and ownership, each on record; and what anybody holds.

Knows what may be granted where and by whom. The first grant turns enforcement on, and leaves the local account the
owner of everything until that is given to another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select

from llmops.core.errors import NotFoundError, UserError
from llmops.core.identity import LOCAL
from llmops.core.sql import Sql
from llmops.registry.access import tables
from llmops.registry.access.control import Place, begun
from llmops.registry.access.privileges import GRANTED_ON, Privilege
from llmops.registry.access.rights import GROUP
from llmops.registry.access.securables import EVERYTHING, Securable
from llmops.registry.authority import Authority

_GRANTEE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@/+-]{0,198}")


@dataclass(frozen=True)
class Grant:
    """One privilege given to somebody."""

    securable: Securable
    grantee: str
    privilege: Privilege
    granted_at: datetime
    granted_by: str

    def as_json(self) -> dict[str, Any]:
        return {
            "securable": str(self.securable),
            "grantee": self.grantee,
            "privilege": self.privilege.value,
            "granted_at": self.granted_at.isoformat(),
            "granted_by": self.granted_by,
        }


class Grants:
    """The grants of one state, as one principal may change them."""

    def __init__(self, sql: Sql, authority: Authority) -> None:
        self._sql = sql
        self._authority = authority

    def grant(self, privilege: Privilege, on: Place, to: str) -> bool:
        """Give a privilege; False where it was given before.

        Raises:
            UserError: the privilege means nothing at this place, or the grantee is not written as one.
            DeniedError: the principal does not manage this place.
        """
        place = Securable.of(on)
        _check(privilege, place, to)
        params = {"privilege": privilege.value, "to": to}
        with self._authority.acting("grant", place, params) as acting, self._sql.begin() as connection:
            self._authority.require(connection, Privilege.MANAGE, place)
            self._enforce(connection)
            new = connection.execute(_those(privilege, place, to)).first() is None
            if new:
                row = {"securable": str(place), "grantee": to, "privilege": privilege.value}
                stamp = {"granted_at": datetime.now(UTC), "granted_by": self._authority.actor}
                connection.execute(insert(tables.grants).values(row | stamp))
            acting.concluded(connection, result={"changed": new})
        return new

    def revoke(self, privilege: Privilege, on: Place, to: str) -> None:
        """Take a privilege back. Nothing else changes: what is held for another reason is still held.

        Raises:
            NotFoundError: it was not given on this very place.
            DeniedError: the principal does not manage this place.
        """
        place = Securable.of(on)
        params = {"privilege": privilege.value, "from": to}
        with self._authority.acting("revoke", place, params) as acting, self._sql.begin() as connection:
            self._authority.require(connection, Privilege.MANAGE, place)
            column = tables.grants.c
            here = (column.securable == str(place)) & (column.grantee == to) & (column.privilege == privilege.value)
            if connection.execute(delete(tables.grants).where(here)).rowcount == 0:
                raise NotFoundError(
                    f"{to} was not granted {privilege.value} on {place}",
                    hint=f"see `llmops access show {to}`: it may be held by a group, or from above",
                )
            acting.concluded(connection)

    def own(self, on: Place, owner: str) -> None:
        """Give a place to another owner, who then may do everything there.

        Raises:
            DeniedError: the principal does not manage this place.
        """
        place = Securable.of(on)
        _check_grantee(owner)
        with (
            self._authority.acting("grant", place, {"owner": owner}) as acting,
            self._sql.begin() as connection,
        ):
            self._authority.require(connection, Privilege.MANAGE, place)
            self._enforce(connection)
            connection.execute(delete(tables.owners).where(tables.owners.c.securable == str(place)))
            row = {"securable": str(place), "owner": owner, "since": datetime.now(UTC), "set_by": self._authority.actor}
            connection.execute(insert(tables.owners).values(row))
            acting.concluded(connection)

    def list(self, *, on: Place | None = None, to: str | None = None) -> list[Grant]:
        """Every grant; on one place and those above it, or to one grantee."""
        column = tables.grants.c
        query = select(tables.grants).order_by(column.securable, column.grantee, column.privilege)
        if on is not None:
            query = query.where(column.securable.in_([str(place) for place in Securable.of(on).line()]))
        if to is not None:
            query = query.where(column.grantee == to)
        with self._sql.read() as connection:
            return [
                Grant(
                    Securable.of(row.securable), row.grantee, Privilege(row.privilege), row.granted_at, row.granted_by
                )
                for row in connection.execute(query)
            ]

    def _enforce(self, connection: Connection) -> None:
        if not begun(connection):
            row = {"securable": str(EVERYTHING), "owner": LOCAL.id, "since": datetime.now(UTC)}
            connection.execute(insert(tables.owners).values(row | {"set_by": self._authority.actor}))


def _grant(row: Row[Any]) -> Grant:
    place, privilege = Securable.of(row.securable), Privilege(row.privilege)
    return Grant(place, row.grantee, privilege, row.granted_at, row.granted_by)


def _those(privilege: Privilege, place: Securable, to: str) -> Select[Any]:
    column = tables.grants.c
    return select(column.grantee).where(
        column.securable == str(place), column.grantee == to, column.privilege == privilege.value
    )


def _check(privilege: Privilege, place: Securable, to: str) -> None:
    _check_grantee(to)
    if place.level not in GRANTED_ON[privilege]:
        raise UserError(
            f"{privilege.value} is not granted on {'an' if place.level[0] in 'ae' else 'a'} {place.level}",
            where=str(place),
            hint=f"grant it on: {', '.join(GRANTED_ON[privilege])}",
        )


def _check_grantee(to: str) -> None:
    if not _GRANTEE.fullmatch(to.removeprefix(GROUP)):
        raise UserError(
            f"`{to}` is nobody to whom a privilege can be given",
            hint="write key:ID (see `llmops keys list`), group:NAME, a person's id, or local",
        )
