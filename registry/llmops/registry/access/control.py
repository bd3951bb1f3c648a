"""The door-keeper: reads grants and owners, and lets a principal through or says what is missing.

Knows tables and the wording of a refusal. The rules themselves are `rights`'; what happens behind the door is the
caller's matter.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, exists, select

from llmops.core.errors import DeniedError
from llmops.core.identity import LOCAL, Principal
from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.registry import tables as registry_tables
from llmops.registry.access import tables
from llmops.registry.access.privileges import PROTECTED, Privilege
from llmops.registry.access.rights import Rights, names_of
from llmops.registry.access.securables import EVERYTHING, Securable

Place = Securable | Name | str


class Access:
    """Decides within the caller's transaction, so that what was allowed is still allowed when it is done."""

    def __init__(self, state: StateConfig) -> None:
        self._always = state.enforce_access

    def enforced(self, connection: Connection) -> bool:
        """Whether privileges apply: by configuration, or since the first one was granted."""
        return self._always or begun(connection)

    def require(self, connection: Connection, principal: Principal, privilege: Privilege, place: Place) -> None:
        """Let the principal through.

        Raises:
            DeniedError: says which privilege is missing, and where.
        """
        here = Securable.of(place)
        rights = self.rights(connection, principal, near=here)
        if rights.why(privilege, here) is None:
            raise _denied(rights, privilege, here)

    def allows(self, connection: Connection, principal: Principal, privilege: Privilege, place: Place) -> bool:
        """Whether the principal may do this here."""
        here = Securable.of(place)
        return self.rights(connection, principal, near=here).why(privilege, here) is not None

    def require_alias(self, connection: Connection, principal: Principal, name: Name, alias: str) -> None:
        """Let the principal move an alias: MANAGE for those that users meet; APPLY TAG is enough for others.

        Raises:
            DeniedError: it may not.
        """
        self.require_writer(connection, principal, name)
        if alias in PROTECTED or not self.allows(connection, principal, Privilege.APPLY_TAG, name):
            self.require(connection, principal, Privilege.MANAGE, name)

    def require_writer(self, connection: Connection, principal: Principal, place: Place) -> None:
        """Keep people from changing a catalog that only service principals write to; no other privilege is asked for.

        Raises:
            DeniedError: it is a person.
        """
        here = Securable.of(place)
        if self.rights(connection, principal, near=here).is_reader(here):
            raise _for_services(here)

    def require_approver(self, connection: Connection, principal: Principal, name: Name, group: str) -> None:
        """Let the principal approve for a group: APPLY TAG on the asset, and the group's governed tag to assign.

        Members of the group may assign `tag:approval_<group>`; others where ASSIGN on it was granted to them.

        Raises:
            DeniedError: it may not.
        """
        self.require(connection, principal, Privilege.APPLY_TAG, name)
        if group not in principal.groups:
            self.require(connection, principal, Privilege.ASSIGN, f"tag:approval_{group}")

    def rights(self, connection: Connection, principal: Principal, *, near: Securable | None = None) -> Rights:
        """What a principal holds: everywhere, for lists; `near` one place, for one decision."""
        if not self.enforced(connection):
            return Rights(principal, enforced=False)
        places = None if near is None else [str(place) for place in near.line()]
        return Rights(
            principal, True, self._granted(connection, principal, places), self._owned(connection, principal, places)
        )

    def _granted(
        self, connection: Connection, principal: Principal, places: Iterable[str] | None
    ) -> dict[Securable, dict[Privilege, str]]:
        column = tables.grants.c
        query = select(column.securable, column.privilege, column.grantee).where(
            column.grantee.in_(names_of(principal))
        )
        if places is not None:
            query = query.where(column.securable.in_(places))
        found: dict[Securable, dict[Privilege, str]] = {}
        for row in connection.execute(query.order_by(column.securable, column.grantee, column.privilege)):
            found.setdefault(Securable.of(row.securable), {}).setdefault(Privilege(row.privilege), row.grantee)
        return found

    def _owned(
        self, connection: Connection, principal: Principal, places: Iterable[str] | None
    ) -> dict[Securable, str]:
        names, owners, assets = names_of(principal), tables.owners.c, registry_tables.assets.c
        set_ = select(owners.securable, owners.owner)
        made = select(assets.name, assets.created_by).where(assets.created_by == principal.id)
        if places is not None:
            set_, made = set_.where(owners.securable.in_(places)), made.where(assets.name.in_(places))
        known = {row.securable: row.owner for row in connection.execute(set_)}
        if self._always:
            known.setdefault(str(EVERYTHING), LOCAL.id)
        for row in connection.execute(made):
            known.setdefault(row.name, row.created_by)
        return {Securable.of(place): owner for place, owner in known.items() if owner in names}


def _denied(rights: Rights, privilege: Privilege, place: Securable) -> DeniedError:
    who = rights.principal.id
    if rights.refused_outright(privilege, place):
        return _for_services(place)
    gate = rights.closed_gate(privilege, place)
    wanted, at = (privilege, place) if gate is None else gate
    return DeniedError(
        f"{who} lacks {wanted.value} on {at}",
        where=str(place),
        hint=f"its owner grants it: llmops access grant '{wanted.value}' '{at}' --to {who}",
    )


def _for_services(place: Securable) -> DeniedError:
    return DeniedError(
        f"`{place.catalog}` is written by service principals only",
        where=str(place),
        hint="act with a program key: LLMOPS_KEY=lk_... llmops ...",
    )


def begun(connection: Connection) -> bool:
    """Whether somebody was ever granted anything: everything has had an owner on record since."""
    return bool(connection.execute(select(exists().where(tables.owners.c.securable == str(EVERYTHING)))).scalar())
