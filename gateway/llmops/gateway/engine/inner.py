"""The way back of a request that the gateway makes of itself, such as an embedding for the semantic cache."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmops.gateway.calls import Headers


class Inner:
    """A `Responder` without a socket: `whole` gives status and body."""

    full = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.whole: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self.on_gone: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None
        self._status = 200
        self._parts: list[bytes] = []

    def send(self, status: int, headers: Headers, body: bytes, standing: Headers = ()) -> None:
        self.on_gone = self.on_drain = None
        if not self.whole.done():
            self.whole.set_result((status, body))

    def start(self, status: int, headers: Headers) -> None:
        self._status = status

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def end(self) -> None:
        self.send(self._status, (), b"".join(self._parts))

    def abort(self) -> None:
        self.send(502, (), b"{}")
