"""What a server stands on by default: the registry, spool, lake and key table of one state folder.

The one module of serving that knows how core and registry store things.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from llmops.core.chain import Chain
from llmops.core.errors import LlmopsError, UnavailableError
from llmops.core.keys import REGISTRY_SCOPE, Keys, acting_principal
from llmops.core.lake import Lake
from llmops.core.names import Ref
from llmops.core.spool import Spool
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.registry.assets import Registry
from llmops.registry.lineage import Edge, Relation, node
from llmops.registry.workflow import Workflows
from llmops.serving.app import Backing
from llmops.serving.config import EndpointConfig
from llmops.serving.indexes import IndexDesk
from llmops.serving.registry_pages.app import Rooms

log = logging.getLogger(__name__)


class RegistrySource:
    """Versions of the registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def resolve(self, ref: Ref) -> Ref:
        return self._registry.resolve(ref).ref

    def load(self, ref: Ref) -> Chain:
        return self._registry.load_chain(ref)


class SpoolTables:
    """Writes through this process' spool; reads the lake and whatever still waits in spools."""

    def __init__(self, spool: Spool, lake: Lake) -> None:
        self._spool = spool
        self._lake = lake

    def append(self, table: str, row: dict[str, Any]) -> None:
        if not self._spool.append(table, row):
            raise UnavailableError("a row was shed: too much waits for the drainer", where=table, code="spool_full")

    async def keep(self, table: str, row: dict[str, Any]) -> None:
        await self._spool.append_durable(table, row)

    def find(self, table: str, column: str, value: str) -> list[dict[str, Any]]:
        return self._lake.rows(table, where={column: value})


@contextmanager
def standard_backing(state: StateConfig, indexes: IndexDesk | None = None) -> Iterator[Backing]:
    """Open the state folder of a serve job."""
    principal = acting_principal(state, REGISTRY_SCOPE)
    with (
        Registry(state, principal=principal) as registry,
        Workflows(state, principal=principal) as workflows,
        open_sql(state) as sql,
        Spool(state.spool) as spool,
    ):
        tables, rooms = SpoolTables(spool, Lake(state)), Rooms(registry, workflows)
        yield Backing(RegistrySource(registry), tables, Keys(sql), rooms, sql, indexes)


def note_served(rooms: Rooms, endpoints: Iterable[EndpointConfig]) -> None:
    """Write down which endpoint serves what, so that a version's impact names it; where it can't, serving goes on.

    An endpoint that follows an alias hangs on the alias: whoever holds it is what is served.
    """
    edges = [
        Edge(str(Ref.parse(endpoint.asset)), Relation.SERVED_BY, node("endpoint", endpoint.name))
        for endpoint in endpoints
    ]
    try:
        rooms.registry.link(edges)
    except LlmopsError as error:
        log.warning("lineage does not know these endpoints: %s", error.what)
