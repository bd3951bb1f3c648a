"""Who acts, whether they may, and the record of it: what every change of the registry's state goes through.

Knows the pieces and puts them together. The rules are `access`', the chain of what was done is `audit`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from llmops.core.errors import DeniedError
from llmops.core.identity import Principal
from llmops.core.names import Name
from llmops.core.sql import Sql
from llmops.core.state import StateConfig
from llmops.registry.access.control import Access, Place
from llmops.registry.access.privileges import Privilege
from llmops.registry.access.rights import Rights
from llmops.registry.access.securables import Securable
from llmops.registry.audit.entries import Origin
from llmops.registry.audit.log import Acting, Audit


@dataclass(frozen=True)
class Authority:
    """One principal, the access rules it is under, and the log that its actions go to.

    Args:
        origin: where the principal comes from; None: from where the log's own process is.
    """

    principal: Principal
    access: Access
    audit: Audit
    origin: Origin | None = None

    @classmethod
    @contextmanager
    def over(cls, sql: Sql, state: StateConfig, principal: Principal, service: str = "registry") -> Iterator[Authority]:
        """The authority of a principal over a state, without the rest of the registry.

        Args:
            service: which part acts, as the log names it.
        """
        audit = Audit(sql, state, origin=Origin.local(service))
        try:
            yield cls(principal, Access(state), audit)
        finally:
            audit.close()

    @property
    def actor(self) -> str:
        """The principal as rows name it."""
        return self.principal.id

    def acting(
        self, action: str, about: object, params: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Acting]:
        """Put an action on record around its effect; see `Audit.acting`."""
        return self.audit.acting(action, str(about), params, self.principal, self.origin)

    def require(self, connection: Connection, privilege: Privilege, place: Place) -> None:
        """Let the principal through.

        Raises:
            DeniedError: says which privilege is missing, and where.
        """
        self.access.require(connection, self.principal, privilege, place)

    def require_alias(self, connection: Connection, name: Name, alias: str) -> None:
        """Let the principal move an alias.

        Raises:
            DeniedError: it may not.
        """
        self.access.require_alias(connection, self.principal, name, alias)

    def require_writer(self, connection: Connection, place: Place) -> None:
        """Keep people from changing a catalog that only service principals write to.

        Raises:
            DeniedError: the principal is a person.
        """
        self.access.require_writer(connection, self.principal, place)

    def allows(self, connection: Connection, privilege: Privilege, place: Place) -> bool:
        """Whether the principal may do this here."""
        return self.access.allows(connection, self.principal, privilege, place)

    def rights(self, connection: Connection, *, near: Place | None = None) -> Rights:
        """What the principal holds: everywhere, or `near` one place."""
        return self.access.rights(connection, self.principal, near=None if near is None else Securable.of(near))

    def require_to_read(self, sql: Sql, privilege: Privilege, action: str, about: object, place: Place) -> None:
        """Let the principal read something; a refusal is put on record, what is allowed is not.

        Raises:
            DeniedError: it may not.
        """
        try:
            with sql.read() as connection:
                self.require(connection, privilege, place)
        except DeniedError as error:
            self.audit.refused(action, str(about), error, principal=self.principal, origin=self.origin)
            raise
