"""Upstreams that say exactly what a test tells them to, and a listener that keeps what it hears of them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from tests.support.wire import JSON, until

from llmops.gateway.calls import Fault, Headers, UpstreamRequest
from llmops.gateway.config import ProviderConfig
from llmops.gateway.http.client import OriginPool
from llmops.gateway.http.timers import Timers

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Upstream:
    """A raw server. `connections` counts those that came, `left` is set when a client left a running script."""

    port: int
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one request with a Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head, await reader.readexactly(length)


@asynccontextmanager
async def upstream(script: Script, **options: Any) -> AsyncIterator[Upstream]:
    """Run `script` for each connection, then close it."""
    tasks: set[asyncio.Task[None]] = set()
    state = Upstream(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(cast("asyncio.Task[None]", asyncio.current_task()))
        state.connections += 1
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            state.left.set()
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.parts: list[bytes] = []
        self.ended = False
        self.fault: Fault | None = None
        self.over = asyncio.Event()
        self.begun = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    def on_reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.on_head(status, headers)
        if body:
            self.on_data(body)
        self.on_end()

    def on_head(self, status: int, headers: Headers) -> None:
        assert not self.over.is_set()
        self.status, self.headers = status, headers

    def on_data(self, data: bytes) -> None:
        assert self.status
        assert not self.over.is_set()
        self.parts.append(data)
        self.begun.set()

    def on_end(self) -> None:
        assert not self.over.is_set()
        self.ended = True
        self.over.set()

    def on_fault(self, fault: Fault) -> None:
        assert not self.over.is_set()
        self.fault = fault
        self.over.set()


@asynccontextmanager
async def pool(url: str, tick_s: float = 0.02, reply_bytes: int = 1 << 20, **config: Any) -> AsyncIterator[OriginPool]:
    timers = Timers(asyncio.get_running_loop(), tick_s)
    one = OriginPool(ProviderConfig(url=url, **config), timers, reply_bytes=reply_bytes)
    try:
        yield one
    finally:
        one.close()
        await until(lambda: not one.connections)
        timers.close()


async def fetch(
    pool: OriginPool, request: UpstreamRequest | None = None, *, first_byte_s: float = 30.0, idle_s: float = 30.0
) -> Heard:
    heard = Heard()
    asked = request or UpstreamRequest("/v1/chat/completions", JSON, b"{}")
    pool.call(asked, heard, first_byte_s=first_byte_s, idle_s=idle_s)
    await heard.over.wait()
    return heard


def saying(*replies: bytes) -> Script:
    """Answer one request with each, on one connection; then close it."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await read_request(reader)
            writer.write(reply)
            await writer.drain()

    return script


def silent(after: bytes = b"") -> Script:
    """Say so much, then nothing until the client leaves."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(after)
        await writer.drain()
        if not await reader.read(1):
            raise ConnectionResetError

    return script
