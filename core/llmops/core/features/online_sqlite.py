"""The online store in one SQLite file: a publication is one transaction, so a reader sees it whole or not at all."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson

from llmops.core.errors import StorageError, UnavailableError
from llmops.core.features.online import Entry, Published
from llmops.core.files import sync_directory

_BUSY_S = 30.0
_ASKED_AT_ONCE = 500
_TABLES = """
CREATE TABLE IF NOT EXISTS entries (
    feature_table TEXT NOT NULL, key TEXT NOT NULL, event_us INTEGER NOT NULL, row BLOB NOT NULL,
    PRIMARY KEY (feature_table, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS published (
    feature_table TEXT PRIMARY KEY, version INTEGER NOT NULL, files BLOB NOT NULL, newest_us INTEGER,
    published_us INTEGER NOT NULL
) WITHOUT ROWID;
"""
_TAKE = """
INSERT INTO entries VALUES (?, ?, ?, ?)
ON CONFLICT (feature_table, key) DO UPDATE SET event_us = excluded.event_us, row = excluded.row
WHERE excluded.event_us >= entries.event_us
"""


class SqliteOnline:
    """Implements `OnlineStore`; one connection a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    def get(self, table: str, keys: Sequence[str]) -> dict[str, Entry]:
        found = {}
        if not self._path.exists():
            return {}
        with self._translated() as connection:
            for some in _portions(keys):
                marks = ", ".join("?" * len(some))
                query = f"SELECT key, event_us, row FROM entries WHERE feature_table = ? AND key IN ({marks})"  # noqa: S608
                for key, event_us, row in connection.execute(query, (table, *some)):
                    found[key] = Entry(key, event_us, orjson.loads(row))
        return found

    def published(self, table: str) -> Published | None:
        if not self._path.exists():
            return None
        with self._translated() as connection:
            query = "SELECT version, files, newest_us, published_us FROM published WHERE feature_table = ?"
            row = connection.execute(query, (table,)).fetchone()
        return None if row is None else Published(row[0], tuple(orjson.loads(row[1])), row[2], row[3])

    def publish(self, table: str, batches: Iterable[list[Entry]], done: Callable[[], Published], *, anew: bool) -> None:
        with self._translated() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                if anew:
                    connection.execute("DELETE FROM entries WHERE feature_table = ?", (table,))
                for batch in batches:
                    rows = ((table, entry.key, entry.event_us, orjson.dumps(entry.values)) for entry in batch)
                    connection.executemany(_TAKE, rows)
                last = done()
                mark = (table, last.version, orjson.dumps(last.files), last.newest_us, last.published_us)
                connection.execute("INSERT OR REPLACE INTO published VALUES (?, ?, ?, ?, ?)", mark)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._lock:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
        self._local = threading.local()

    @contextmanager
    def _translated(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection()
        except sqlite3.OperationalError as error:
            name = getattr(error, "sqlite_errorname", "") or ""
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise UnavailableError("the online store is being written", where=str(self._path)) from error
            raise StorageError(f"the online store cannot be used: {error}", where=str(self._path)) from error
        except sqlite3.DatabaseError as error:
            hint = "remove the file and publish again: it holds nothing that the lake does not"
            raise StorageError(f"the online store is damaged: {error}", where=str(self._path), hint=hint) from error

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is not None:
            return found
        fresh = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        with self._lock:
            self._opened.append(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_TABLES)
        if fresh:
            sync_directory(self._path.parent)
        self._local.connection = connection
        return connection


def _portions(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _ASKED_AT_ONCE):
        yield keys[start : start + _ASKED_AT_ONCE]
