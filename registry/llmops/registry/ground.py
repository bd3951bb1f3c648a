"""What the rooms of one registry stand on: the state, its database, the principal's authority, and what it may see.

Knows who asks and where things are kept. What is asked is the other rooms' matter.
"""

from __future__ import annotations

import copy
from typing import Self

from sqlalchemy import Connection

from llmops.core.identity import LOCAL, Principal
from llmops.core.names import Name
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig
from llmops.registry import queries
from llmops.registry.access import Access, Grants, Securable
from llmops.registry.audit import Audit, Origin
from llmops.registry.authority import Authority
from llmops.registry.mlflow_adapter import MlflowStore


class Ground:
    """An open state, as one principal may use it. Thread-safe; close it, or use it as a context manager.

    Args:
        principal: who reads and acts through it.
        origin: where they come from, for the audit log; default: this process.
    """

    def __init__(self, state: StateConfig, *, principal: Principal = LOCAL, origin: Origin | None = None) -> None:
        self._state = state
        self._sql: Sql = open_sql(state)
        self.authority = Authority(principal, Access(state), Audit(self._sql, state, origin=origin))

    @property
    def state(self) -> StateConfig:
        """Where it keeps things."""
        return self._state

    @property
    def actor(self) -> str:
        """The principal as rows name it."""
        return self.authority.actor

    @property
    def sql(self) -> Sql:
        """The own state, for the rooms of the registry that keep tables of their own."""
        return self._sql

    @property
    def audit(self) -> Audit:
        return self.authority.audit

    @property
    def grants(self) -> Grants:
        """Who may do what, as this principal may change it."""
        return Grants(self._sql, self.authority)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.audit.close()
        self._sql.close()

    def in_name_of(self, principal: Principal, origin: Origin) -> Self:
        """The same registry as another may read and change it, on this one's connections; only this one is closed."""
        other = copy.copy(self)
        other.authority = Authority(principal, self.authority.access, self.authority.audit, origin)
        return other

    def _store(self, catalog: str) -> MlflowStore:
        return MlflowStore(self._state, catalog)

    def _seen(self, connection: Connection, name: Name, *, missing_ok: bool = False) -> None:
        """Speak of an asset that the principal may not know of as of one that is not there."""
        rights = self.authority.rights(connection, near=name)
        if not rights.enforced or (missing_ok and rights.sees(Securable.of(name))):
            return
        if not rights.sees(Securable.of(name)) or queries.kind_of(connection, name) is None:
            everywhere = self.authority.rights(connection)
            known = [str(each.name) for each in queries.assets(connection) if everywhere.sees(Securable.of(each.name))]
            raise queries.unknown_asset(name, known)


def parsed(name: Name | str) -> Name:
    """A name, however a caller gave it."""
    return Name.parse(name) if isinstance(name, str) else name
