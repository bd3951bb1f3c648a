"""The callers' side of the door: listens, holds the limits, and ends without cutting a reply.

Each connection is a `door.Connection`; the handler gets whole, checked requests and never waits. Who may ask, for
which host names, and what, is the handler's business.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from llmops.gateway.calls import Handler
from llmops.gateway.config import HttpConfig
from llmops.gateway.http.door import Connection
from llmops.gateway.http.timers import Timers
from llmops.gateway.http.tls import server_context

BACKLOG = 4096


class HttpServer:
    """A protocol factory: `await loop.create_server(server, ...)`, or `await server.listen(...)`, which adds TLS.

    Must be built in the loop that it serves in.
    """

    def __init__(self, handler: Handler, config: HttpConfig, timers: Timers) -> None:
        self.handler = handler
        self.config = config
        self.timers = timers
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.kept_bytes = 0
        self._connections: set[Connection] = set()
        self._listeners: list[asyncio.Server] = []
        self._empty = asyncio.Event()
        self._empty.set()

    def __call__(self) -> Connection:
        return Connection(self)

    @property
    def config(self) -> HttpConfig:
        """What is in force; set it to change it for all connections. Certificates stay those of `listen`."""
        return self._config

    @config.setter
    def config(self, config: HttpConfig) -> None:
        self._config = config
        self.body_limit = config.body_bytes  # read for each request, where pydantic's attributes would be slow
        self.head_limit = config.header_bytes
        self.idle_s = config.idle_s

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def listen(
        self, host: str = "127.0.0.1", port: int = 0, *, sock: socket.socket | None = None, reuse_port: bool = False
    ) -> int:
        """Accept connections; returns the port. `sock` is a bound socket to use instead of host and port."""
        context = server_context(self.config)
        handshake_s = self.config.head_s if context else None
        factory = cast("Callable[[], asyncio.Protocol]", self)
        if sock is None:
            listener = await self.loop.create_server(
                factory, host, port, backlog=BACKLOG, reuse_port=reuse_port or None, ssl=context,
                ssl_handshake_timeout=handshake_s,
            )  # fmt: skip
        else:
            listener = await self.loop.create_server(
                factory, sock=sock, backlog=BACKLOG, ssl=context, ssl_handshake_timeout=handshake_s
            )
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    async def drain(self, grace_s: float) -> None:
        """Accept nothing more, close idle connections, let replies under way end, cut those that outlast the grace."""
        self.draining = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self._connections):
            connection.wind_down()
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.close_now()

    def admit(self, connection: Connection) -> None:
        """Count a new connection. Past the cap it is told so; past twice the cap not even that."""
        self._connections.add(connection)
        self._empty.clear()
        most = self._config.connections
        if self.draining:
            connection.wind_down()
        elif len(self._connections) > 2 * most:
            connection.close_now()
        elif len(self._connections) > most:
            connection.refuse(503, "too_many_connections", "too many connections; try again later")

    def dismiss(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()
