"""One connection to a provider, and the call that it serves: request out, reply in, every ending told apart.

Knows HTTP and time. Which connection serves which call is the pool's business, what a reply means the listener's.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

from llmops.gateway.calls import Fault, Listener
from llmops.gateway.http.chunks import Chunks
from llmops.gateway.http.head import CHUNKED, BadMessageError, parse_reply
from llmops.gateway.http.timers import NEVER

if TYPE_CHECKING:
    from llmops.gateway.http.client import OriginPool

HEAD_BYTES: Final = 64 * 1024
INTERIM_REPLIES: Final = 8

_IDLE: Final = 0
_HEAD: Final = 1
_LENGTH: Final = 2
_CHUNKS: Final = 3
_UNTIL_CLOSE: Final = 4
_LOST: Final = 5

log = logging.getLogger(__name__)


class Call:
    """Implements `calls.UpstreamCall`. After `pause`, what was read already may still be told."""

    __slots__ = (
        "_pool", "bodyless", "connection", "deadline", "first_byte_s", "idle_s", "listener", "paused", "replaced",
        "sent", "wire",
    )  # fmt: skip

    def __init__(self, pool: OriginPool, listener: Listener, first_byte_s: float, idle_s: float) -> None:
        self._pool = pool
        self.listener: Listener | None = listener
        self.first_byte_s = first_byte_s
        self.idle_s = idle_s
        self.sent = False
        self.wire = b""
        self.bodyless = False
        self.connection: Upstream | None = None
        self.deadline = NEVER
        self.paused = False
        self.replaced = False

    def cancel(self) -> None:
        """Close the connection now: whoever computes the reply shall stop."""
        self.listener = None
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.cut()
        else:
            self._pool.leave(self)

    def pause(self) -> None:
        self.paused = True
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        self.paused = False
        if self.connection is not None:
            self.connection.resume()

    def fail(self, fault: Fault) -> None:
        self.connection = None
        listener, self.listener = self.listener, None
        if listener is not None:
            try:
                listener.on_fault(fault)
            except Exception:
                log.exception("the fault of an upstream call could not be handled")


class Upstream:
    """A connection of the pool; at most one call at a time. An `asyncio.Protocol` by what it has."""

    __slots__ = (
        "_call", "_chunks", "_held", "_interim", "_keep", "_left", "_pool", "_received", "_state", "_timers",
        "_transport", "_used", "deadline",
    )  # fmt: skip

    def __init__(self, pool: OriginPool) -> None:
        self._pool = pool
        self._timers = pool.timers
        self._transport: asyncio.Transport
        self._state = _IDLE
        self._call: Call | None = None
        self._held = b""
        self._left = 0
        self._received = 0
        self._interim = 0
        self._keep = False
        self._used = False
        self._chunks: Chunks | None = None
        self.deadline = NEVER

    @property
    def lost(self) -> bool:
        return self._state == _LOST

    @property
    def used(self) -> bool:
        """Whether it has served a call: it may have been closed since."""
        return self._used

    def begin(self, call: Call) -> None:
        """Send the call's request; the connection is free and alive as far as anyone knows."""
        self._call = call
        call.connection = self
        call.sent = True
        self._state = _HEAD
        self.deadline = self._timers.now + call.first_byte_s
        self._timers.outbox.write(self._transport, call.wire)
        if call.paused:
            self.pause()

    # --- called by the loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None:  # nobody asked: whatever it is, it must not become somebody's reply
            self.cut()
            return
        try:
            if self._state == _HEAD:
                self._read_head(call, data)
                return
            if not call.paused:
                self.deadline = self._timers.now + call.idle_s
            self._read_body(call, data)
        except BadMessageError as error:
            self.fail(Fault("invalid", f"the upstream's reply cannot be read: {error.what}"))
        except Exception:
            log.exception("a reply could not be handled")
            self.fail(_unhandled())

    def eof_received(self) -> None:
        if self._state == _UNTIL_CLOSE:
            self._end()
        else:
            self._break()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state == _UNTIL_CLOSE and exc is None:
            self._end()
        self._break()

    def pause_writing(self) -> None:
        """A request is held whole whatever the upstream takes of it."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    # --- called by the clock, the call and the pool ---

    def expire(self) -> None:
        if self._call is None:
            self.cut()
        elif self._state == _HEAD:
            self.fail(Fault("first_byte_timeout", "the upstream did not begin to reply in time", 504))
        else:
            self.fail(Fault("idle_timeout", "the upstream fell silent within its reply", 504))

    def pause(self) -> None:
        if self._state not in (_IDLE, _LOST):
            self._transport.pause_reading()
            if self._state != _HEAD:
                self.deadline = NEVER  # the silence is ours

    def resume(self) -> None:
        if self._state not in (_IDLE, _LOST) and self._call is not None:
            self._transport.resume_reading()
            if self._state != _HEAD:
                self.deadline = self._timers.now + self._call.idle_s

    def cut(self) -> None:
        """Close at once, dropping what was not sent."""
        if self._state == _LOST:
            return
        self._state = _LOST
        self._call = None
        self.deadline = NEVER
        self._transport.abort()
        self._pool.lost(self)

    def fail(self, fault: Fault) -> None:
        call = self._call
        self.cut()
        if call is not None:
            call.fail(fault)

    # --- a reply ---

    def _read_head(self, call: Call, data: bytes) -> None:
        if self._held:
            data = self._held + data
            self._held = b""
        call.wire = b""  # from here on nothing is sent again
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > HEAD_BYTES:
                if len(data) > HEAD_BYTES:
                    raise BadMessageError(502, "headers_too_large", "its head is too large")
                self._held = data
                return
            block = data[:end]
            data = data[end + 4 :]
            head = parse_reply(block, True) if call.bodyless else self._pool.known.read(block, len(data))
            if head[0] >= 200:
                break
            self._interim += 1
            if head[0] == 101 or self._interim > INTERIM_REPLIES:
                raise BadMessageError(502, "bad_interim", "it changes the protocol, or announces itself for ever")
        status, headers, length, self._keep, streamed = head
        listener = call.listener
        assert listener is not None
        if length == len(data) <= self._pool.reply_bytes:  # the whole reply came at once
            self._free(call)
            try:
                listener.on_reply(status, headers, data)
            except Exception:
                log.exception("a reply could not be handled")
                listener.on_fault(_unhandled())
            return
        self._begin_body(call, length, streamed)
        listener.on_head(status, headers)
        if data and self._call is call:
            self._read_body(call, data)

    def _begin_body(self, call: Call, length: int | None, streamed: bool) -> None:
        self._received = -(1 << 62) if streamed else 0
        if length is None:
            self._state = _UNTIL_CLOSE
        elif length == CHUNKED:
            self._state = _CHUNKS
            self._chunks = Chunks(extensions=True)
        else:
            self._state = _LENGTH
            self._left = length
            if length > self._pool.reply_bytes and not streamed:
                self._too_large()
        self.deadline = NEVER if call.paused else self._timers.now + call.idle_s

    def _read_body(self, call: Call, data: bytes) -> None:
        listener = call.listener
        assert listener is not None
        state = self._state
        if state == _LENGTH:
            left = self._left - len(data)
            if left < 0:  # more than was said: the reply is whole, the connection is not to be trusted
                data = data[: self._left]
                self._keep = False
                left = 0
            self._left = left
            if data:
                listener.on_data(data)
            if not left and self._call is call:
                self._end()
            return
        over = False
        if state == _CHUNKS:
            chunks = self._chunks
            assert chunks is not None
            try:
                data = chunks.feed(data)
            except BadMessageError:
                if chunks.salvaged:  # it was received, and will be booked
                    listener.on_data(chunks.salvaged)
                raise
            over = chunks.done
            if chunks.surplus:
                self._keep = False
        self._received += len(data)
        if self._received > self._pool.reply_bytes:
            self._too_large()
        if data:
            listener.on_data(data)
        if over and self._call is call:
            self._end()

    def _too_large(self) -> None:
        raise BadMessageError(502, "reply_too_large", f"it is larger than {self._pool.reply_bytes} bytes")

    # --- ends ---

    def _end(self) -> None:
        call = cast("Call", self._call)
        listener = call.listener
        self._free(call)
        if listener is not None:
            try:
                listener.on_end()
            except Exception:
                log.exception("the end of a reply could not be handled")
                listener.on_fault(_unhandled())

    def _free(self, call: Call) -> None:
        """The reply is whole. The connection is free before the listener hears it, which may call again at once."""
        self._call = None
        call.connection = call.listener = None
        self._chunks = None
        if self._keep and self._state != _UNTIL_CLOSE and not self._transport.get_write_buffer_size():
            if call.paused:
                self._transport.resume_reading()
            if not self._used:
                self._used = True
                self._keep_session()
            self._interim = 0
            self._state = _IDLE
            self._pool.release(self)
        else:
            self.cut()

    def _keep_session(self) -> None:
        """Once data came, so did the tickets of TLS 1.3."""
        context = self._pool.context
        secure = self._transport.get_extra_info("ssl_object") if context is not None else None
        if context is not None and secure is not None:
            context.session = secure.session

    def _break(self) -> None:
        """The upstream closed. Before any byte of a reply on a kept connection, the call gets another one."""
        call = self._call
        fresh = self._state == _HEAD and not self._held and call is not None and bool(call.wire)
        self.cut()
        if call is None:
            return
        if fresh and self._used and not call.replaced:
            call.replaced = True
            call.connection = None
            self._pool.replace(call)
        else:
            call.fail(Fault("cut", "the upstream closed the connection before its reply was whole"))


def _unhandled() -> Fault:
    return Fault("invalid", "the upstream's reply could not be handled")
