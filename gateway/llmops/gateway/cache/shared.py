"""Answers that all workers share: in a SQLite file on one machine, in Redis between machines.

Asked without holding up the loop. A store that fails is a miss: counted, left alone for a moment, never an error of the
request. Knows keys and entries in their written form.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import orjson

from llmops.gateway.cache.exact import Stored
from llmops.gateway.calls import Usage

_log = logging.getLogger(__name__)
_REST_S = 1.0
_TIMEOUT_S = 0.25
_USAGE = tuple(Usage.__dataclass_fields__)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, at REAL NOT NULL, size INTEGER NOT NULL, entry BLOB NOT NULL)
WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (at, size);
"""


def written(stored: Stored) -> bytes:
    """An entry as it is kept outside: one line of JSON, then the body."""
    usage = [getattr(stored.usage, name) for name in _USAGE]
    return orjson.dumps({"at": stored.at, "model": stored.model, "usage": usage}) + b"\n" + stored.body


def read_back(entry: bytes) -> Stored | None:
    """None where it is not what we wrote (another version's, or damaged)."""
    line, _, body = entry.partition(b"\n")
    try:
        head = orjson.loads(line)
        usage = Usage(**dict(zip(_USAGE, head["usage"], strict=True)))
        return Stored(body, usage, head["model"], float(head["at"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


class Shared(Protocol):
    """A place outside of the worker."""

    failures: int

    async def get(self, key: bytes) -> Stored | None: ...

    async def put(self, key: bytes, stored: Stored) -> None: ...

    async def clear(self) -> None:
        """Forget everything, in all workers' stead."""

    async def close(self) -> None: ...


class SqliteShared:
    """A file of this machine. Safe to lose: written without fsync, and begun anew where it is damaged."""

    def __init__(self, path: Path, max_bytes: int, ttl_s: float) -> None:
        self.failures = 0
        self._path, self._max, self._ttl = path, max_bytes, ttl_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llmops-cache")
        self._connection: sqlite3.Connection | None = None
        self._written = 0
        self._rest_until = 0.0

    async def get(self, key: bytes) -> Stored | None:
        entry = await self._in_thread(self._read, key)
        return read_back(entry) if isinstance(entry, bytes) else None

    async def put(self, key: bytes, stored: Stored) -> None:
        await self._in_thread(self._write, key, stored)

    async def clear(self) -> None:
        await self._in_thread(self._forget)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._leave)  # also while it rests
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        if time.monotonic() < self._rest_until:
            return None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except (sqlite3.Error, OSError) as error:
            self.failures += 1
            self._rest_until = time.monotonic() + _REST_S
            _log.warning("the shared cache %s failed and rests for a moment: %s", self._path.name, error)
            return None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = self._opened()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                for ending in ("", "-wal", "-shm"):
                    self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
                self._connection = self._opened()
        return self._connection

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=1.0, check_same_thread=False)
        self._path.chmod(0o600)  # answers are people's words
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(_SCHEMA)
        return connection

    def _read(self, key: bytes) -> bytes | None:
        row = self._open().execute(
            "SELECT entry FROM answers WHERE key = ? AND at > ?", (key, time.time() - self._ttl)
        ).fetchone()  # fmt: skip
        return row[0] if row else None

    def _write(self, key: bytes, stored: Stored) -> None:
        entry = written(stored)
        if len(entry) > self._max // 8:
            return
        connection = self._open()
        connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, stored.at, len(entry), entry))
        self._written += len(entry)
        if self._written > self._max // 32:
            self._written = 0
            self._shrink(connection)

    def _shrink(self, connection: sqlite3.Connection) -> None:
        """Drop what is too old, then the oldest until a sixteenth of the room is free."""
        connection.execute("DELETE FROM answers WHERE at <= ?", (time.time() - self._ttl,))
        connection.execute(
            "DELETE FROM answers WHERE at <= (SELECT at FROM (SELECT at, sum(size) OVER (ORDER BY at DESC, size DESC)"
            " AS younger FROM answers) WHERE younger > ? ORDER BY at DESC LIMIT 1)",
            (self._max - self._max // 16,),
        )
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _forget(self) -> None:
        self._open().execute("DELETE FROM answers")
        self._open().execute("VACUUM")

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class RedisShared:
    """A Redis server that several machines share; its own limits bound the memory, its TTLs the age."""

    def __init__(self, url: str, prefix: str, ttl_s: float) -> None:
        from redis.asyncio import Redis

        self.failures = 0
        self._prefix, self._ttl = f"{prefix}cache:".encode(), ttl_s
        self._redis = Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        self._rest_until = 0.0

    async def get(self, key: bytes) -> Stored | None:
        entry = await self._ask("GET", self._prefix + key)
        stored = read_back(entry) if isinstance(entry, bytes) else None
        return stored if stored and stored.age_s(time.time()) < self._ttl else None

    async def put(self, key: bytes, stored: Stored) -> None:
        left_ms = int((self._ttl - stored.age_s(time.time())) * 1000)
        if left_ms > 0:
            await self._ask("SET", self._prefix + key, written(stored), "PX", left_ms)

    async def clear(self) -> None:
        cursor: Any = 0
        while True:
            found = await self._ask("SCAN", cursor, "MATCH", self._prefix + b"*", "COUNT", 1000)
            if not found:
                return
            cursor, keys = found
            if keys:
                await self._ask("UNLINK", *keys)
            if int(cursor) == 0:
                return

    async def close(self) -> None:
        await self._redis.aclose()

    async def _ask(self, *command: Any) -> Any:
        from redis.exceptions import RedisError

        if time.monotonic() < self._rest_until:
            return None
        try:
            execute: Any = self._redis.execute_command
            return await execute(*command)
        except (RedisError, OSError, TimeoutError) as error:
            self.failures += 1
            self._rest_until = time.monotonic() + _REST_S
            _log.warning("the shared cache in Redis failed and rests for a moment: %s", type(error).__name__)
            return None
