"""The own state in one SQL database: SQLite in the folder by default, PostgreSQL by URL, with the same code.

Knows connections, transactions, migrations and the meaning of a database's errors. Which tables there are is the matter
of the part that owns them: it defines its `Table`s on a MetaData of its own and adds a file to `migrations/versions`.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, DateTime, Dialect, Engine, TypeDecorator, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, OperationalError

from llmops.core import errors
from llmops.core.files import sync_directory
from llmops.core.state import StateConfig

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 10.0
_MIGRATION_LOCK = 0x6C6C6D6F7073  # "llmops": the key of PostgreSQL's advisory lock around a migration


class Timestamp(TypeDecorator[datetime]):
    """An instant in UTC: SQLite forgets time zones, PostgreSQL does not; through this type both give aware times."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored time needs a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if not isinstance(value, datetime):
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Sql:
    """An open, migrated database. Thread-safe; each `begin` or `read` takes a connection of the pool."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self.where = self._engine.url.render_as_string(hide_password=True)
        # PostgreSQL would give each statement of a transaction a view of its own; SQLite has one for all of them.
        self._reading = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that writes: committed where the block ends well, rolled back where it raises.

        SQLite takes its write lock at once (BEGIN IMMEDIATE), so that what was read inside stays true until the commit.

        Raises:
            ConflictError: a unique or foreign key forbids it.
            UnavailableError: the database is locked, or its server does not answer.
            StorageError: the disk is full or read-only.
            IntegrityError: the file is no database, or a broken one.
        """
        with self._translated(), self._engine.connect().execution_options(write=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def erase(self) -> Iterator[Connection]:
        """As `begin`; of what is deleted or overwritten no byte stays in SQLite's file, nor in its log where no reader
        holds that back. How long a server keeps dead rows is its own affair."""
        with self.begin() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("PRAGMA secure_delete = ON")
            yield connection
        if self.is_sqlite:
            with self._translated(), self._engine.connect() as connection:
                raw: Any = connection.connection.dbapi_connection
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: one consistent view, and in SQLite no writer waits for it."""
        with (
            self._translated(),
            self._engine.connect().execution_options(**self._reading) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Sql:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise _meaning(error, self.where) from error
        except sqlite3.Error as error:
            raise _sqlite_meaning(error, self.where) from error


def open_sql(state: StateConfig) -> Sql:
    """Open the own state, bringing its tables to this version first; any number of processes may do so at once.

    Alembic is imported only where something is to migrate: a reading command pays one SELECT.
    """
    sql = Sql(state.sql)
    try:
        if sql.is_sqlite:
            _prepare_sqlite(sql)
        with sql.read() as connection:
            current = _revision(connection)
        if current != head():
            _migrate(sql)
    except BaseException:
        sql.close()
        raise
    return sql


def head() -> str:
    """The revision this code is written for: the highest number among the files of `migrations/versions`."""
    return max(match[1] for path in (MIGRATIONS / "versions").iterdir() if (match := re.match(r"v(\d{4})_", path.name)))


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.drivername in {"postgresql", "postgres"}:
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "sqlite":
            engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S}, json_deserializer=orjson.loads)
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        return create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError) as error:
        raise errors.ConfigError(
            "`state.sql_url` is not a database URL",
            where=_masked(url),
            hint="write sqlite:///PATH or postgresql://USER@HOST/NAME",
        ) from error
    except ModuleNotFoundError as error:
        raise errors.ConfigError(
            f"the driver of this database is not installed ({error.name})",
            where=_masked(url),
            hint="pip install 'llmops[postgresql]'",
        ) from error


def _masked(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//***@", url)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, not where the driver guesses
    for pragma in (f"busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}", "foreign_keys = ON", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    mode = "IMMEDIATE" if connection.get_execution_options().get("write") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {mode}")


def _prepare_sqlite(sql: Sql) -> None:
    """Make the file, durably, and turn its write-ahead log on (the file remembers that)."""
    path = Path(sql._engine.url.database or "")
    if path == Path():
        raise errors.ConfigError("the own state needs a file", where=sql.where, hint="write sqlite:///PATH")
    fresh = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with sql._translated(), sql._engine.connect() as connection:
            _turn_wal_on(connection.connection.dbapi_connection)
        if fresh:
            sync_directory(path.parent)
    except OSError as error:
        raise errors.StorageError(f"cannot make the state folder: {error.strerror}", where=str(path.parent)) from error


def _turn_wal_on(raw: Any) -> None:
    """Switch to the write-ahead log. SQLite asks no busy handler for this lock, so the waiting is done here."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            if raw.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                raw.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _migrate(sql: Sql) -> None:
    """Run what is missing in one transaction; its lock lets a second process wait, look again, find nothing to do."""
    from alembic import command
    from alembic.config import Config

    with sql.begin() as connection:
        if not sql.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        current = _revision(connection)
        if current is not None and current > head():
            raise errors.ConflictError(
                f"the state was written by a newer llmops (revision {current}, this one knows {head()})",
                where=sql.where,
                hint="upgrade llmops, or point state.dir at another folder",
            )
        if current == head():
            return
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _meaning(error: DBAPIError, where: str) -> errors.LlmopsError:
    original = error.orig
    if isinstance(error, IntegrityError):
        return errors.ConflictError(f"the database refused a row: {_first_line(original)}", where=where)
    if isinstance(original, sqlite3.Error):
        return _sqlite_meaning(original, where)
    if isinstance(error, OperationalError) or error.connection_invalidated:
        state = getattr(original, "sqlstate", None) or ""
        if state.startswith(("53100", "25006")):
            return errors.StorageError(f"the database cannot write: {_first_line(original)}", where=where)
        return errors.UnavailableError(
            f"the database does not answer: {_first_line(original)}",
            where=where,
            hint="is the server up and state.sql_url right?",
        )
    return errors.LlmopsError(f"the database failed: {_first_line(original)}", where=where)


def _sqlite_meaning(error: BaseException, where: str) -> errors.LlmopsError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return errors.UnavailableError(
            "the database is locked by another process",
            where=where,
            hint="end what holds it open for writing, then try again",
        )
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY")):
        return errors.StorageError(
            f"the database cannot write: {error}", where=where, hint="is the disk full or read-only?"
        )
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return errors.IntegrityError(
            f"the state file is damaged: {error}",
            where=where,
            hint="restore it from a backup, or move it away to start empty",
        )
    if name.startswith("SQLITE_CANTOPEN"):
        return errors.StorageError(
            "cannot open the state file", where=where, hint="check the folder and its permissions"
        )
    return errors.LlmopsError(f"the database failed: {error}", where=where)


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0]
