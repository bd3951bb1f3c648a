"""SQL over the lake: one SELECT that names tables by their three-level names.

This module and `expressions` know duckdb. What stands behind a name it is told; a query reaches nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmops.core.errors import UserError
from llmops.core.names import Name
from llmops.core.tables import ViewSpec

_NAME = re.compile(r"\b[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*\b")


def names_in(sql: str) -> list[str]:
    """The three-level names that a query speaks of."""
    return sorted(set(_NAME.findall(sql)))


def select(
    sql: str, sources: Mapping[str, tuple[Any, ViewSpec | None]], params: Sequence[Any] | Mapping[str, Any] = ()
) -> Any:
    """The rows of one SELECT, as a pyarrow table.

    Args:
        sources: by name an Arrow dataset or table, and the view through which it is shown.

    Raises:
        UserError: the query cannot run.
    """
    import duckdb

    with duckdb.connect() as connection:
        for place, (name, (source, view)) in enumerate(sources.items()):
            connection.register(f"source_{place}", source)
            _show(connection, name, f"source_{place}", view)
        connection.execute("SET enable_external_access = false; SET TimeZone = 'UTC'")
        try:
            relation = connection.sql(sql, params=params or None)
            if relation is None:
                raise UserError("the query gives no rows", where=sql, hint="write one SELECT")
            return relation.to_arrow_table()
        except duckdb.Error as error:
            raise UserError(f"the query failed: {error}", where=sql) from error


def _show(connection: Any, name: str, source: str, view: ViewSpec | None) -> None:
    """Put a source behind a three-level name: each catalog is an empty database in memory."""
    parsed = Name.parse(name)
    connection.execute(f"ATTACH IF NOT EXISTS ':memory:' AS \"{parsed.catalog}\"")
    connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{parsed.catalog}"."{parsed.schema}"')
    columns = ", ".join(f"{sql} AS {column}" for column, sql in view.columns.items()) if view else "*"
    shown = f'"{parsed.catalog}"."{parsed.schema}"."{parsed.asset}"'
    connection.execute(f"CREATE VIEW {shown} AS SELECT {columns} FROM {source}")  # noqa: S608 - parts of a checked Name
