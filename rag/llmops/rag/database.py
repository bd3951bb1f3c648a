"""The SQL database behind a manifest: transactions, one held view, and news of other processes' commits.

The only module of an index's own files that knows sqlite3. Knows no table: `manifest`, `records` and `lexicon` write
their statements in the SQL that SQLite and PostgreSQL share (`?` for values, ON CONFLICT, RETURNING, "end" in quotes).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from llmops.core.errors import IntegrityError
from llmops.core.files import sync_directory
from llmops.rag.disk import storage_errors

_BUSY_MS = 30_000
_PAUSE_S = 0.25
_ROWS = 200
_SCRATCH_KB = 4096
_SCRATCH_FOLDERS = ("SQLITE_TMPDIR", "TMPDIR")
_SCRATCH_FOLDER = "/var/tmp"  # noqa: S108 - only told where a disk is full: SQLite makes the file, unlinked at once


class SqliteFile:
    """One connection to a database file (WAL, synchronous=FULL); used by one thread at a time.

    Every method raises StorageError where the disk is full or refuses, IntegrityError where the file is damaged, and
    UnavailableError where another process keeps it locked.
    """

    is_shared = False
    WORDS: ClassVar = {"matches": "uri GLOB :pattern", "elements": "json_each(acl)"}
    """What has no words in common: whether a uri matches a pattern, and the elements of a list of texts."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.where = str(path)
        self._connection = connection
        self._inode = path.stat().st_ino if path.exists() else 0

    @classmethod
    def open(cls, path: Path, schema: str, version: int, steps: Mapping[int, str]) -> SqliteFile:
        """Open a file, made with `schema` where it is new.

        Args:
            steps: what brings a file of an older version up to this one, by that version.

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
                elif found in steps:
                    _make(connection, found, steps[found], version)
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

    @classmethod
    def temporary(cls, schema: str, functions: Mapping[str, Callable[[str, str], str]] | None = None) -> SqliteFile:
        """A database for one piece of work, of which memory holds a few megabytes, and a kill leaves no file.

        Several threads may use it at once. It lies where SQLite keeps temporary files: SQLITE_TMPDIR, TMPDIR, /var/tmp.

        Args:
            functions: of two texts, by the names under which statements may call them.
        """
        connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute(f"PRAGMA cache_size = {-_SCRATCH_KB}")
        for name, function in (functions or {}).items():
            connection.create_function(name, 2, function, deterministic=True)
        database = cls(Path(next(filter(None, map(os.environ.get, _SCRATCH_FOLDERS)), _SCRATCH_FOLDER)), connection)
        for statement in schema.split(";"):
            database.execute(statement)
        return database

    def close(self) -> None:
        self._connection.close()

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        with storage_errors(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def stream(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows of one statement, a few at a time, as they were when it began.

        Statements that write what it has still to read are for after it; it need not be read to its end.
        """
        with closing(self._connection.cursor()) as cursor:
            with storage_errors(self.path):
                cursor.execute(sql, parameters)
            while True:
                with storage_errors(self.path):
                    rows = cursor.fetchmany(_ROWS)
                if not rows:
                    return
                yield from rows

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; returns how many rows it changed."""
        with storage_errors(self.path):
            return self._connection.execute(sql, parameters).rowcount

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with storage_errors(self.path):
            self._connection.executemany(sql, rows)

    @staticmethod
    def pattern(glob: str) -> str:
        """A pattern of file names as this database writes it."""
        return glob

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

    def holds_back(self) -> bool:
        """Whether a view that is still held keeps room from being given back: that of the write-ahead log."""
        log = self.path.with_name(f"{self.path.name}-wal")
        return log.exists() and log.stat().st_size > 0

    def checkpoint(self) -> bool:
        """Fold the write-ahead log into the file as far as open readers allow; whether it is empty now."""
        self.query("PRAGMA busy_timeout = 0")  # a reader's snapshot is no reason to wait
        blocked = self.query("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]
        self.query(f"PRAGMA busy_timeout = {_BUSY_MS}")
        return not blocked

    def rewrite(self, wait_s: float) -> bool:
        """Write the file anew without free pages, and empty its log; whether readers let go of it in time."""
        self.execute("VACUUM")
        deadline = time.monotonic() + wait_s
        while not self.checkpoint():
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_S)
        return True

    def number_on(self, columns: Mapping[str, str]) -> None:
        """Go on numbering behind the rows that were inserted with their numbers: SQLite does that by itself."""

    def empty(self) -> None:
        """Drop every table, in the transaction that is open: whoever still writes here is refused, not lost."""
        self.execute("PRAGMA defer_foreign_keys = ON")
        for (table,) in self.query(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid DESC"
        ):
            self.execute(f'DROP TABLE "{table}"')
        self.execute("PRAGMA user_version = 0")

    def remove(self) -> None:
        """Remove the emptied file."""
        self.close()
        with storage_errors(self.path):
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            sync_directory(self.path.parent)

    @contextmanager
    def locked(self, what: str, wait_s: float = 0.0) -> Iterator[None]:
        """Be the only writer: that is the lock of the folder, on this one machine."""
        yield


def _create(connection: sqlite3.Connection, schema: str, version: int) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    _make(connection, 0, schema, version)


def _make(connection: sqlite3.Connection, found: int, statements: str, version: int) -> None:
    """Two processes may arrive here at once; the second finds the tables made."""
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA user_version").fetchone()[0] == found:
        for statement in statements.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("COMMIT")
