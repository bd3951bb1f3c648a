"""A Redis client of the few commands that allowances need, over one connection.

redis-py's asyncio client takes 25 MB and 0.8 s to import, more than a third of what a worker may use in all; this takes
nothing beyond asyncio. Speaks RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/). Reconnects at the
next call after a fault; no password is in any error.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from llmops.core.errors import ConfigError

_LIMIT = 64 * 1024 * 1024
_MOVED_ON = ("READONLY", "LOADING", "MASTERDOWN", "MOVED", "CLUSTERDOWN")
"""What a server says that is no longer, or not yet, the one that takes writes."""


class RedisError(Exception):
    """What the server said no to; the first word is its code."""


@dataclass(frozen=True)
class RedisAddress:
    """Where a server is, and who we are there."""

    host: str
    port: int
    database: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    socket: str | None = None

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """redis://[user:password@]host[:port][/database], rediss:// for TLS, unix://[user:password@]/path.

        Raises:
            ConfigError: none of these; the URL is not shown, since it may hold a password.
        """
        try:
            parts = urlsplit(url)
            user = unquote(parts.username) if parts.username else None
            password = unquote(parts.password) if parts.password else None
            if parts.scheme == "unix" and parts.path:
                return cls("", 0, 0, user, password, socket=parts.path)
            if parts.scheme in ("redis", "rediss") and parts.hostname:
                database = int(parts.path.strip("/") or 0)
                return cls(parts.hostname, parts.port or 6379, database, user, password, parts.scheme == "rediss")
        except ValueError:
            pass
        raise ConfigError(
            "`store.redis_url` is no Redis URL", hint="write redis://user:password@host:6379/0, rediss:// for TLS"
        )

    def __str__(self) -> str:
        return self.socket or f"{self.host}:{self.port}"


class Connection:
    """One connection, opened at need. `run_id` names the server's process: another one may have lost data."""

    def __init__(self, address: RedisAddress, *, timeout_s: float = 2.0) -> None:
        self.address = address
        self.run_id = ""
        self._timeout_s = timeout_s
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._lock = asyncio.Lock()

    async def script(self, source: bytes, keys: Sequence[str], arguments: Sequence[str]) -> Any:
        """Run a script, sent by its hash and in full only where the server does not have it.

        Raises:
            RedisError: the server refused.
            OSError, TimeoutError, EOFError: there is no server, or it does not answer.
        """
        digest = hashlib.sha1(source, usedforsecurity=False).hexdigest()
        rest = [str(len(keys)), *keys, *arguments]
        async with self._lock:
            try:
                async with asyncio.timeout(self._timeout_s):
                    if self._writer is None:
                        await self._open()
                    try:
                        return await self._call("EVALSHA", digest, *rest)
                    except RedisError as error:
                        if not str(error).startswith("NOSCRIPT"):
                            raise
                        return await self._call("EVAL", source.decode(), *rest)
            except RedisError as error:
                if str(error).startswith(_MOVED_ON):
                    self._drop()  # by its name the next call may find the server that took over
                raise
            except BaseException:
                self._drop()  # an answer that comes later must not be taken for another one's
                raise

    async def connect(self) -> None:
        """Open the connection if it is not, so that `run_id` is known. Raises as `script`."""
        async with self._lock:
            if self._writer is None:
                try:
                    async with asyncio.timeout(self._timeout_s):
                        await self._open()
                except BaseException:
                    self._drop()
                    raise

    async def close(self) -> None:
        writer = self._writer
        self._drop()
        if writer is not None:
            try:
                await writer.wait_closed()
            except OSError:
                return  # gone already

    async def _open(self) -> None:
        address = self.address
        if address.socket:
            self._reader, self._writer = await asyncio.open_unix_connection(address.socket, limit=_LIMIT)
        else:
            tls = ssl.create_default_context() if address.tls else None
            self._reader, self._writer = await asyncio.open_connection(
                address.host, address.port, ssl=tls, limit=_LIMIT
            )
        if address.password is not None:
            who = [address.user] if address.user else []
            await self._call("AUTH", *who, address.password)
        if address.database:
            await self._call("SELECT", str(address.database))
        told = (await self._call("INFO", "server")).decode()
        self.run_id = next(line[7:].strip() for line in told.splitlines() if line.startswith("run_id:"))

    async def _call(self, *words: str) -> Any:
        assert self._writer is not None
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            data = word.encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
        self._writer.write(b"".join(parts))
        await self._writer.drain()
        reply = await self._reply()
        if isinstance(reply, RedisError):
            raise reply
        return reply

    async def _reply(self) -> Any:
        assert self._reader is not None
        line = (await self._reader.readuntil(b"\r\n"))[:-2]
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return RedisError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else (await self._reader.readexactly(size + 2))[:-2]
        if kind == b"*":
            return [await self._reply() for _ in range(int(rest))]
        raise ConnectionError("the server does not speak RESP")

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
