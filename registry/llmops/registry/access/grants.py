"""Giving and taking privileges and ownership, each change on record.

Knows what may be granted where and by whom. The first grant turns enforcement on, and leaves the local account the
owner of everything until that is given to another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, delete, exists, insert, select

from llmops.core.errors import NotFoundError, UserError
from llmops.core.identity import LOCAL
from llmops.core.names import current_catalog
from llmops.core.sql import Sql
from llmops.registry.access import report, tables
from llmops.registry.access.control import Place, begun
from llmops.registry.access.places import read_place, seen_assets
from llmops.registry.access.privileges import GRANTED_ON, Privilege
from llmops.registry.access.report import Holding
from llmops.registry.access.rights import GROUP, names_of
from llmops.registry.access.securables import EVERYTHING, Securable

if TYPE_CHECKING:
    from llmops.registry.authority import Authority

OWNER = "OWNER"
_GRANTEE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@/+-]{0,190}")


@dataclass(frozen=True)
class Change:
    """What one grant, revocation or transfer changed, or would change."""

    what: str
    privilege: str
    securable: Securable
    principal: str
    changed: bool
    enforces: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "privilege": self.privilege,
            "securable": str(self.securable),
            "principal": self.principal,
            "changed": self.changed,
            "enforces": self.enforces,
        }

    def sentence(self, *, plan: bool) -> str:
        """The change in words."""
        if not self.changed:
            return f"{self.principal} has {self.privilege} on {self.securable} already"
        verb = {("grant", True): "would get", ("grant", False): "has"}.get((self.what, plan))
        verb = verb or ("would no longer be granted" if plan else "is no longer granted")
        return f"{self.principal} {verb} {self.privilege} on {self.securable}"


class Grants:
    """The grants of one state, as one principal may change and see them. With `plan` nothing is changed."""

    def __init__(self, sql: Sql, authority: Authority) -> None:
        self._sql = sql
        self._authority = authority

    def place(self, text: str) -> Securable:
        """The place that somebody typed; see `read_place`."""
        with self._sql.read() as connection:
            return read_place(connection, text, self._authority.rights(connection))

    def grant(self, privilege: Privilege, on: Place, to: str, *, plan: bool = False) -> Change:
        """Give a privilege, on a place and everything beneath it.

        Raises:
            UserError: the privilege means nothing at this place, or the grantee is not written as one.
            DeniedError: the principal does not manage this place.
        """
        place = Securable.of(on)
        _check_level(privilege, place)
        _check_grantee(to)

        def change(connection: Connection) -> Change:
            new = not connection.execute(select(exists().where(_that(privilege, place, to)))).scalar()
            if new and not plan:
                row = {"securable": str(place), "grantee": to, "privilege": privilege.value}
                stamp = {"granted_at": datetime.now(UTC), "granted_by": self._authority.actor}
                connection.execute(insert(tables.grants).values(row | stamp))
            return Change("grant", privilege.value, place, to, new, self._enforce(connection, plan=plan))

        return self._act("grant", place, {"privilege": privilege.value, "to": to}, change, plan=plan)

    def revoke(self, privilege: Privilege, on: Place, to: str, *, plan: bool = False) -> Change:
        """Take a privilege back. Nothing else changes: what is held for another reason is still held.

        Raises:
            NotFoundError: it was not given on this very place.
            DeniedError: the principal does not manage this place.
        """
        place = Securable.of(on)

        def change(connection: Connection) -> Change:
            those = _that(privilege, place, to)
            if not connection.execute(select(exists().where(those))).scalar():
                raise NotFoundError(
                    f"{to} was not granted {privilege.value} on {place}",
                    hint=f"see `llmops access show {to}`: it may be held by a group, or from above",
                )
            if not plan:
                connection.execute(delete(tables.grants).where(those))
            return Change("revoke", privilege.value, place, to, True)

        return self._act("revoke", place, {"privilege": privilege.value, "from": to}, change, plan=plan)

    def own(self, on: Place, owner: str, *, plan: bool = False) -> Change:
        """Give a place to another owner, who then may do everything there and beneath.

        Raises:
            DeniedError: the principal does not manage this place.
        """
        place = Securable.of(on)
        _check_grantee(owner)

        def change(connection: Connection) -> Change:
            enforces = self._enforce(connection, plan=plan)
            if not plan:
                connection.execute(delete(tables.owners).where(tables.owners.c.securable == str(place)))
                row = {"securable": str(place), "owner": owner, "set_by": self._authority.actor}
                connection.execute(insert(tables.owners).values(row | {"since": datetime.now(UTC)}))
            return Change("grant", OWNER, place, owner, True, enforces)

        return self._act("grant", place, {"privilege": OWNER, "to": owner}, change, plan=plan)

    def show(self, whom: str | None = None) -> list[Holding]:
        """What a principal holds, or who holds what on a place, and why.

        None: every grant and owner on record, for who manages everything; what the principal itself holds, for others.

        Raises:
            DeniedError: it is neither the principal's own business nor about a place that it manages.
        """
        principal, access = self._authority.principal, self._authority.access
        if whom is None:
            with self._sql.read() as connection:
                if self._authority.allows(connection, Privilege.MANAGE, EVERYTHING):
                    return report.on_record(connection)
                return report.of_principal(connection, access, principal)
        place = report.as_place(self._sql, whom)
        if place is None:
            self._refuse_short_name(whom)
        if whom not in names_of(principal):
            at = place or EVERYTHING
            self._authority.require_to_read(self._sql, Privilege.MANAGE, "read_grants", whom, at)
        with self._sql.read() as connection:
            if place is not None:
                return report.of_place(connection, access, place)
            return report.of_principal(connection, access, report.known(connection, whom))

    def _refuse_short_name(self, word: str) -> None:
        """A word that names nobody and is the rest of an asset's name: that it holds nothing is no answer.

        Raises:
            UserError: it is one.
        """
        full = f"{current_catalog()}.{word}"
        with self._sql.read() as connection:
            holds = connection.execute(select(tables.grants.c.grantee).where(tables.grants.c.grantee == word)).first()
            if holds is None and full in seen_assets(connection, self._authority.rights(connection)):
                raise UserError(f"`{word}` is no principal", hint=f"for the asset write all three levels: {full}")

    def _act(
        self,
        action: str,
        place: Securable,
        params: dict[str, Any],
        change: Callable[[Connection], Change],
        *,
        plan: bool,
    ) -> Change:
        if plan:
            self._authority.require_to_read(self._sql, Privilege.MANAGE, action, place, place)
            with self._sql.read() as connection:
                return change(connection)
        with self._authority.acting(action, place, params) as acting, self._sql.begin() as connection:
            self._authority.require(connection, Privilege.MANAGE, place)
            done = change(connection)
            acting.concluded(connection, result={"changed": done.changed, "enforces": done.enforces})
            return done

    def _enforce(self, connection: Connection, *, plan: bool) -> bool:
        """Whether this is the first grant, with which enforcement begins."""
        first = not begun(connection)
        if first and not plan:
            row = {"securable": str(EVERYTHING), "owner": LOCAL.id, "since": datetime.now(UTC)}
            connection.execute(insert(tables.owners).values(row | {"set_by": self._authority.actor}))
        return first


def _that(privilege: Privilege, place: Securable, to: str) -> ColumnElement[bool]:
    column = tables.grants.c
    return (column.securable == str(place)) & (column.grantee == to) & (column.privilege == privilege.value)


def _check_level(privilege: Privilege, place: Securable) -> None:
    if place.level not in GRANTED_ON[privilege]:
        raise UserError(
            f"{privilege.value} means nothing on {'an' if place.level[0] in 'ae' else 'a'} {place.level}",
            where=str(place),
            hint=f"it is granted on: {', '.join(GRANTED_ON[privilege])}",
        )


def _check_grantee(to: str) -> None:
    if not _GRANTEE.fullmatch(to.removeprefix(GROUP)):
        raise UserError(
            f"`{to}` is nobody to whom a privilege can be given",
            hint="write key:ID (see `llmops keys list`), group:NAME, a person's id, or local",
        )
