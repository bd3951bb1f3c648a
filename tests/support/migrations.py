"""Compares the tables a part defines with those its migrations make."""

from __future__ import annotations

from typing import Any

from sqlalchemy import MetaData

from llmops.core.sql import Sql


def differences(sql: Sql, metadata: MetaData) -> list[Any]:
    """What Alembic would still change for the database to be as `metadata` says; other parts' tables are left out."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def ours(_object: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
        return kind != "table" or name in metadata.tables

    with sql.read() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        return list(compare_metadata(context, metadata))
