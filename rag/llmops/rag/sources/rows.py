"""Rows that are documents: of an SQL query, or of a table of the lake. Each becomes a small Markdown file.

The signal is a hash of what the row says; of a table whose version has not moved, nothing is read as long as it is for
the same readers. Knows how a row is written down; connections and tables are `core`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import quote

from llmops.core.errors import ConfigError, NotFoundError, UnavailableError
from llmops.core.ids import digest
from llmops.core.lake import Lake
from llmops.core.names import Name
from llmops.core.secret import resolve_secret
from llmops.core.state import StateConfig
from llmops.rag.config import QuerySource, Rows, TableSource
from llmops.rag.document import RefusedDocumentError, Rejected, SourceItem
from llmops.rag.sources.mirror import Content, Listed, Mirror

_BATCH = 1000
_READ = "read"
Row = Mapping[str, Any]


def scan_query(source: QuerySource, mirror: Mirror) -> Iterator[SourceItem | Rejected]:
    """Bring the mirror up to the query's rows, and give them.

    Raises:
        UnavailableError: the database does not answer, or refuses the query; nothing is taken for deleted.
        ConfigError: a named column is not in the result.
    """
    yield from mirror.update(_listed(source, f"sql:{source.name}", _selected(source)))
    yield from mirror.items()


def scan_table(source: TableSource, mirror: Mirror, state: StateConfig) -> Iterator[SourceItem | Rejected]:
    """Bring the mirror up to the table's newest version, and give its rows.

    Raises:
        NotFoundError: there is no such table.
        ConfigError: a named column is not in it.
    """
    name = str(Name.parse(source.table))
    lake = Lake(state)
    version = lake.version(name)
    if version is None:
        raise NotFoundError(f"there is no table {name}", where=lake.root, hint="nothing was changed")
    wanted = f"{version} {digest({'acl': source.acl, 'metadata': source.metadata})}"
    if mirror.fact(_READ) != wanted or not mirror.is_whole():
        columns = ", ".join(f'"{column}"' for column in _columns(source))
        condition = f" WHERE {source.where}" if source.where else ""
        table = lake.query_arrow(f"SELECT {columns} FROM {name}{condition}")  # noqa: S608 - the configuration's own
        rows = (row for batch in table.to_batches(max_chunksize=_BATCH) for row in batch.to_pylist())
        mirror.forget_fact(_READ)  # a kill may leave some rows for other readers
        yield from mirror.update(_listed(source, f"table:{name}", rows))
        mirror.set_fact(_READ, wanted)
    yield from mirror.items()


def _columns(source: Rows) -> list[str]:
    named = (source.key, *source.text, source.title, *source.facts, source.acl_column)
    return list(dict.fromkeys(column for column in named if column))


def _selected(source: QuerySource) -> Iterator[Row]:
    """The result in blocks; the connection may only read."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(resolve_secret(source.database))
    except (sqlalchemy.exc.ArgumentError, ImportError) as error:
        raise ConfigError("the database's URL cannot be used", where=f"sql:{source.name}") from error
    try:
        with engine.connect().execution_options(stream_results=True, yield_per=_BATCH) as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(sqlalchemy.text("SET TRANSACTION READ ONLY"))
            elif engine.dialect.name == "sqlite":
                connection.execute(sqlalchemy.text("PRAGMA query_only = ON"))
            for row in connection.execute(sqlalchemy.text(source.query)).mappings():
                yield dict(row)
    except sqlalchemy.exc.SQLAlchemyError as error:
        said = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())[:200]
        raise UnavailableError(
            f"the query failed: {said}", where=f"sql:{source.name}", hint="nothing was changed; mend it, or run again"
        ) from error
    finally:
        engine.dispose()


def _listed(source: Rows, prefix: str, rows: Iterable[Row]) -> Iterator[Listed]:
    for row in rows:
        missing = [column for column in _columns(source) if column not in row]
        if missing:
            raise ConfigError(
                f"the rows have no column `{missing[0]}`", where=prefix, hint=f"they have {', '.join(row)}"
            )
        text = written(source, row)
        facts = {name: _fact(row[name]) for name in source.facts if row[name] is not None}
        signal = digest(text)
        yield Listed(
            f"{prefix}/{quote(str(row[source.key]), safe='')}",
            signal.__eq__,
            partial(_content, text, signal),
            _groups(source, row),
            {**source.metadata, **facts},
        )


def written(source: Rows, row: Row) -> str:
    """A row as Markdown: its title, then its texts."""
    title = " ".join(str(row[source.title] or "").split()) if source.title else ""
    texts = [str(row[column]).strip() for column in source.text if row[column] is not None]
    return "\n\n".join([*([f"# {title}"] if title else []), *[text for text in texts if text]]) + "\n"


def _content(text: str, signal: str, _: str | None) -> Content:
    if not text.strip():
        raise RefusedDocumentError("empty")
    return Content(text.encode(errors="replace"), ".md", signal)


def _groups(source: Rows, row: Row) -> tuple[str, ...]:
    """Who may read a row: its own groups where a column names them. A row that names none is nobody's."""
    if source.acl_column is None:
        return source.acl
    value = row[source.acl_column]
    groups = value if isinstance(value, list | tuple) else str(value or "").split(",")
    return tuple(group for one in groups if (group := str(one).strip()))


def _fact(value: Any) -> str | int | float | bool:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value if isinstance(value, str | int | float) else str(value)
