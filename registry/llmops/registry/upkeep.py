"""Putting right what interruptions and others left beside the record: MLflow's copies, registrations, actions.

Knows what may be wrong and the order of mending. The record itself is never changed from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmops.core.names import Name
from llmops.core.sql import Sql
from llmops.registry import projection
from llmops.registry.access import Privilege
from llmops.registry.audit import Entry
from llmops.registry.authority import Authority
from llmops.registry.projection import Differences, Stores
from llmops.registry.registration import Interrupted, Registrar


@dataclass(frozen=True)
class Repairs:
    """What was found wrong beside the record."""

    copies: Differences
    registrations: list[Interrupted]
    actions: list[Entry]

    def as_json(self) -> dict[str, Any]:
        return {
            **self.copies.as_json(),
            "registrations": [interrupted.as_json() for interrupted in self.registrations],
            "actions": [intent.as_json() for intent in self.actions],
        }


class Upkeep:
    """Looks for what is wrong and mends it, in the name of one principal."""

    def __init__(self, sql: Sql, stores: Stores, authority: Authority, registrar: Registrar) -> None:
        self._sql = sql
        self._stores = stores
        self._authority = authority
        self._registrar = registrar

    def look(self) -> Repairs:
        """What `mend` would put right; changes nothing."""
        copies = projection.differences(self._sql, self._stores)
        return Repairs(copies, self._registrar.sweep(plan=True), self._authority.audit.left_open())

    def mend(self) -> Repairs:
        """Put it right, and say what it was.

        Raises:
            DeniedError: the principal lacks MANAGE on an asset whose copies are to be put right.
        """
        copies = projection.differences(self._sql, self._stores)
        if copies:
            self._mend(copies)
        with self._sql.read() as connection:
            behind = projection.lagging(connection)
        for name in behind:
            projection.follow(self._sql, self._stores(name.catalog), name)
        return Repairs(copies, self._registrar.sweep(plan=False), self._authority.audit.recover())

    def _mend(self, copies: Differences) -> None:
        names = [Name.parse(name) for name in copies.names]
        with self._authority.acting("repair", "*", copies.as_json()) as acting:
            with self._sql.read() as connection:
                for name in names:
                    self._authority.require(connection, Privilege.MANAGE, name)
            projection.mend(self._stores, copies)
            with self._sql.begin() as connection:
                projection.doubt(connection, names)
                acting.concluded(connection)
