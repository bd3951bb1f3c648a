"""What a server stands on by default: the registry, spool, lake and key table of one state folder.

The one module of serving that knows how core stores things.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmops.core.errors import UnavailableError
from llmops.core.lake import Lake
from llmops.core.spool import Spool
from llmops.core.state import StateConfig
from llmops.serving.app import Backing
from llmops.serving.config import ServeConfig
from llmops.serving.endpoint import RegistrySource


class SpoolTables:
    """Writes through this process' spool; reads the lake and whatever still waits in spools."""

    def __init__(self, state: StateConfig, spool: Spool) -> None:
        self._spool = spool
        self._lake = Lake(state)

    def append(self, table: str, row: dict[str, Any]) -> None:
        if not self._spool.append(table, row):
            raise UnavailableError("the spool holds too much that waits for the drainer; a row was shed", code="spool_full")

    async def keep(self, table: str, row: dict[str, Any]) -> None:
        await self._spool.append_durable(table, row)

    def find(self, table: str, column: str, value: str) -> list[dict[str, Any]]:
        return [row for row in self._lake.rows(table, include_pending=True) if row[column] == value]


@contextmanager
def standard_backing(config: ServeConfig) -> Iterator[Backing]:
    """Open the state folder of a serve job."""
    raise NotImplementedError
