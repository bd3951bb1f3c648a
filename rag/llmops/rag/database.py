"""The SQL database behind a manifest: transactions, one held view, and news of other processes' commits.

The only module of an index's own files that knows sqlite3. Knows no table: `manifest`, `records` and `lexicon` write
their statements in the SQL that SQLite and PostgreSQL share (`?` for values, ON CONFLICT, RETURNING, "end" in quotes).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmops.core.errors import IntegrityError
from llmops.rag.disk import storage_errors

_BUSY_MS = 30_000


class SqliteFile:
    """One connection to a database file (WAL, synchronous=FULL); used by one thread at a time.

    Every method raises StorageError where the disk is full or refuses, IntegrityError where the file is damaged, and
    UnavailableError where another process keeps it locked.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._inode = path.stat().st_ino if path.exists() else 0

    @classmethod
    def open(cls, path: Path, schema: str, version: int) -> SqliteFile:
        """Open a file, made with `schema` where it is new.

        Raises:
            IntegrityError: it is damaged, or its schema is of another version.
        """
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA foreign_keys = ON")
                found = connection.execute("PRAGMA user_version").fetchone()[0]
                if found == 0:
                    _create(connection, schema, version)
                elif found != version:
                    raise IntegrityError(
                        f"the index was written in format {found}; this version reads {version}",
                        where=str(path),
                        hint="update llmops, or remove the folder and ingest again",
                    )
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    @classmethod
    def in_memory(cls, schema: str, version: int) -> SqliteFile:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        _create(connection, schema, version)
        return cls(Path(":memory:"), connection)

    def close(self) -> None:
        self._connection.close()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with storage_errors(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; returns how many rows it changed."""
        with storage_errors(self.path):
            return self._connection.execute(sql, parameters).rowcount

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with storage_errors(self.path):
            self._connection.executemany(sql, rows)

    def insert(self, sql: str, parameters: Sequence[Any]) -> int:
        """Insert one row that the database numbers; the statement ends in RETURNING its number."""
        return int(self.query(sql, parameters)[0][0])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block's writes or none, durable when it returns."""
        with storage_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def hold(self) -> None:
        """From the next query on, see one state only, whatever is committed meanwhile, until this is closed."""
        self.query("BEGIN")

    def news(self) -> int:
        """Differs from its last value after any other connection's commit."""
        return int(self.query("PRAGMA data_version")[0][0])

    def is_replaced(self) -> bool:
        """Whether another file lies at the path by now (restored, or removed and ingested anew)."""
        return self.path.stat().st_ino != self._inode

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the file as far as open readers allow."""
        self.query("PRAGMA busy_timeout = 0")  # a reader's snapshot is no reason to wait
        self.query("PRAGMA wal_checkpoint(TRUNCATE)")
        self.query(f"PRAGMA busy_timeout = {_BUSY_MS}")


def _create(connection: sqlite3.Connection, schema: str, version: int) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    # Two processes may arrive here at once; the second finds the tables made.
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        for statement in schema.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("COMMIT")
