"""An exchange as an HTTP response: whole, or streamed as server-sent events.

It notices a client that goes away while the chain still thinks, and holds the status line back until the first piece of
the answer, so that a failing upstream is an HTTP error and no broken stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmops.core.chain import Citation, Delta, Event, Retrieval, Step
from llmops.core.errors import LlmopsError, UnauthenticatedError
from llmops.serving.api.wire import KEEP_ALIVE, Chunks, completion, failure
from llmops.serving.exchange import Exchange
from llmops.serving.guard import error_response
from llmops.serving.record import encode

log = logging.getLogger(__name__)

SILENCE_S: Final = 15.0
"""After so long without an event a comment keeps proxies from closing the stream; it also commits the status line."""


LOOK_S: Final = 2.0
"""How often it is asked whether the reader is still signed in, or their key still works."""

ONE_WRITE_BYTES: Final = 16_384
"""What a chain gives faster than it can be sent goes out together, up to about this size; the first piece at once."""


class ExchangeReply(Response):
    """Drives an exchange to its end, whatever the client does. Its row is in the log before the last byte is sent."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        stream: bool,
        include_usage: bool = False,
        still: Callable[[], object] | None = None,
    ) -> None:
        super().__init__()
        self._exchange = exchange
        self._still = still
        self._stream = stream
        self._include_usage = include_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        drive = asyncio.create_task(self._streamed(send) if self._stream else self._whole(scope, receive, send))
        gone = asyncio.create_task(_disconnected(receive))
        watch = asyncio.create_task(self._watched(self._still)) if self._still is not None else None
        try:
            # A client that stops reading blocks in `send`; the outer limit ends that too.
            await asyncio.wait(
                {drive, gone}, timeout=self._exchange.limits.answer_s + SILENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            gone.cancel()
            drive.cancel()
            if watch is not None:
                watch.cancel()
            await asyncio.gather(drive, gone, return_exceptions=True)
            self._exchange.finish()
        if not drive.cancelled() and (error := drive.exception()) is not None:
            raise error

    async def _watched(self, still: Callable[[], object]) -> None:
        """End the answer of whoever is signed out meanwhile, or shut out."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await asyncio.to_thread(still)
            except UnauthenticatedError as error:
                self._exchange.end(error)
                return
            except LlmopsError as error:
                log.warning("whether a reader is still signed in is not known: %s", error.what)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = self._identifying_headers()
        try:
            while await self._exchange.next() is not None:
                pass
        except LlmopsError as error:
            await self._concluded()
            await error_response(error, headers)(scope, receive, send)
            return
        await self._concluded()
        body = encode(completion(self._exchange))
        await Response(body, media_type="application/json", headers=headers)(scope, receive, send)

    async def _streamed(self, send: Send) -> None:
        pending: asyncio.Task[Event | None] = asyncio.create_task(self._first())
        try:
            await self._stream_events(send, pending)
        finally:
            pending.cancel()

    async def _stream_events(self, send: Send, first: asyncio.Task[Event | None]) -> None:
        chunks = Chunks(self._exchange)
        done, _ = await asyncio.wait({first}, timeout=SILENCE_S)
        if done and (error := first.exception()) is not None:
            if not isinstance(error, LlmopsError):
                raise error
            await self._concluded()
            await _send_whole(send, error_response(error, self._identifying_headers()))
            return
        await self._start(send)
        waiting, begun = chunks.opening(), False
        try:
            event = await _patiently(first, send)
            while event is not None:
                if isinstance(event, Delta):
                    waiting += chunks.delta(event)
                elif isinstance(event, Citation):
                    waiting += chunks.citation(event)
                elif isinstance(event, Step):
                    waiting += chunks.step(event)
                if not begun or not self._exchange.ready or len(waiting) > ONE_WRITE_BYTES:
                    await _piece(send, waiting)
                    waiting, begun = b"", True
                event = await self._next_or_keep_alive(send)
        except LlmopsError as error:
            await self._concluded()
            await _piece(send, waiting + failure(error, self._exchange), last=True)
            return
        await self._concluded()
        await _piece(send, waiting + chunks.closing(include_usage=self._include_usage), last=True)

    async def _concluded(self) -> None:
        """The log has the row, and the reader's history the answer."""
        self._exchange.finish()
        await self._exchange.kept()

    async def _first(self) -> Event | None:
        """The first event a reader sees; the passages found before it are no answer yet."""
        event = await self._exchange.next()
        while isinstance(event, Retrieval):
            event = await self._exchange.next()
        return event

    async def _next_or_keep_alive(self, send: Send) -> Event | None:
        if self._exchange.ready:
            return await self._exchange.next()
        return await _patiently(asyncio.ensure_future(self._exchange.next()), send)

    async def _start(self, send: Send) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "x-accel-buffering": "no",
            **self._identifying_headers(),
        }
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

    def _identifying_headers(self) -> dict[str, str]:
        return {"x-request-id": self._exchange.question.context.request_id}


async def _patiently(pending: asyncio.Future[Event | None], send: Send) -> Event | None:
    """Wait for an event; a comment goes out after each long silence."""
    try:
        while not (await asyncio.wait({pending}, timeout=SILENCE_S))[0]:
            await _piece(send, KEEP_ALIVE)
        return pending.result()
    finally:
        pending.cancel()


async def _piece(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})


async def _send_whole(send: Send, response: Response) -> None:
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
