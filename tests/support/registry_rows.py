"""Writes registry rows without MLflow, for tests that only read them or move aliases."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import insert

from llmops.core.names import Name
from llmops.core.sql import Sql
from llmops.registry import Kind, Version, queries, tables


def seed(sql: Sql, name: str, count: int, kind: Kind = Kind.CHAIN) -> list[Version]:
    """Write versions as a registration leaves them, without MLflow and without an alias."""
    now = datetime.now(UTC)
    with sql.begin() as connection:
        connection.execute(insert(tables.assets).values(name=name, kind=kind.value, created_at=now, created_by="seed"))
        rows = [
            {
                "name": name,
                "version": number,
                "digest": f"{number:064x}",
                "source": "",
                "description": "",
                "tags": {},
                "params": {"number": number},
                "created_at": now,
                "created_by": "seed",
            }
            for number in range(1, count + 1)
        ]
        connection.execute(insert(tables.versions), rows)
        return [queries.version(connection, Name.parse(name), number) for number in range(1, count + 1)]
