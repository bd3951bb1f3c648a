"""One caller's connection: bytes in, whole checked requests out, one at a time, each answered before the next is read.

Policies, all of them at the safe end:
- A caller that closes its sending half while it waits for a reply counts as gone. Real clients do not half-close; a
  vanished client must stop the upstream call at once, and the two look the same.
- Requests may be pipelined; the bytes of those that wait are held up to `PIPELINED_BYTES`, past that nothing is
  read, the end of the connection included.
- After an error of the transport itself the connection ends; what the caller still sends is read and dropped for
  `LINGER_S`, so that the error is not lost to a TCP reset.
Knows no route, no key, and nothing of what the bytes of a body mean.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from llmops.gateway.calls import Request
from llmops.gateway.http.answer import Answer
from llmops.gateway.http.chunks import Chunks
from llmops.gateway.http.frame import error_reply
from llmops.gateway.http.head import CHUNKED, BadMessageError, KnownHead, RequestHead, parse_request
from llmops.gateway.http.timers import NEVER

if TYPE_CHECKING:
    from llmops.gateway.http.server import HttpServer

WRITE_HIGH: Final = 64 * 1024
WRITE_LOW: Final = 16 * 1024
PIPELINED_BYTES: Final = 64 * 1024
LINGER_S: Final = 2.0
LEAST_CHUNK: Final = 64
"""Chunks of a request must hold so many bytes on average (the first 1,024 are free): each costs time to take apart."""

BODIES_BYTES = 256 * 1024**2
"""What the unfinished bodies of one worker may take together: nobody has shown a key before his body is whole."""

_STRANGER: Final = KnownHead(b"", (Request("", "", "", {}, b""), 0, False, 1, False), chances=4)
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEAD: Final = 0
_BODY: Final = 1
_ANSWER: Final = 2
_CLOSING: Final = 3
_LINGER: Final = 4
_LOST: Final = 5

log = logging.getLogger(__name__)


class Connection:
    """One client connection of the server: an `asyncio.Protocol` by what it has, of no base that is not compiled."""

    __slots__ = (
        "_answer", "_body", "_chunks", "_head", "_held", "_kept", "_known", "_pending", "_scanned", "_server", "_state",
        "deadline", "full", "keep", "timers", "transport",
    )  # fmt: skip

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self.timers = server.timers
        self.deadline = NEVER
        self.full = False
        self.keep = True
        self.transport: asyncio.Transport
        self._state = _HEAD
        self._held = bytearray()
        self._scanned = 0
        self._head: RequestHead | None = None
        self._known = _STRANGER
        self._body = bytearray()
        self._kept = 0
        self._chunks: Chunks | None = None
        self._answer: Answer | None = None
        self._pending = 0

    # --- called by the loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH, low=WRITE_LOW)
        self.deadline = self.timers.now + self._server.config.head_s
        self.timers.watch(self)
        self._server.admit(self)

    def data_received(self, data: bytes) -> None:
        try:
            if self._state == _HEAD and not self._held:
                self._begin(data)
            else:
                self._more(data)
        except BadMessageError as error:
            self.refuse(error.status, error.error_code, error.what)

    def eof_received(self) -> None:
        """Nothing more will be asked. A caller that waits for a reply has left (see the policies above)."""
        if self._state in (_HEAD, _BODY, _ANSWER):
            self.close_now()

    def connection_lost(self, exc: Exception | None) -> None:
        self.timers.forget(self)
        self._server.dismiss(self)
        self._lose()

    def pause_writing(self) -> None:
        self.full = True
        if self._state == _ANSWER:
            self._await_flush()

    def resume_writing(self) -> None:
        self.full = False
        self._pending = 0
        if self._state == _ANSWER:
            self.deadline = NEVER
            if self._answer is not None and self._answer.on_drain is not None:
                self._answer.on_drain()

    # --- called by the clock and the server ---

    def expire(self) -> None:
        state = self._state
        if state == _BODY or (state == _HEAD and self._held):
            self.refuse(408, "request_timeout", "the request took too long to arrive")
        elif state == _LINGER or not self._flushes():
            self.close_now()

    def wind_down(self) -> None:
        """No further request: close at once if none is under way, else after its reply."""
        self.keep = False
        if self._state == _HEAD and not self._held:
            self._finish()

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer an error of the transport, then listen to nothing more."""
        if self._state in (_CLOSING, _LINGER, _LOST):
            return
        self._drop()
        self.write(error_reply(status, code, message, self.timers.date))
        self.timers.outbox.flush()
        self._state = _LINGER
        self.deadline = self.timers.now + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()

    def close_now(self) -> None:
        self._lose()
        self.transport.abort()

    # --- called by the answer ---

    def write(self, data: bytes) -> None:
        self.timers.outbox.write(self.transport, data)

    def soon(self, callback: Callable[[], None]) -> None:
        self._server.loop.call_soon(callback)

    def answered(self) -> None:
        self._answer = None
        self._known.head[0].body = b""  # an idle connection holds no body
        if self._state != _ANSWER:
            return
        if not self.keep:
            self._finish()
            return
        self._state = _HEAD
        self.deadline = self.timers.now + self._server.idle_s
        if self._held:
            self._server.loop.call_soon(self._next)  # not from here: a long pipeline would be a deep stack

    def cut(self, reset: bool) -> None:
        """End in a way that no caller takes for a whole reply; without chunks only a reset tells it from an end."""
        self._answer = None
        if not reset:
            self._finish()
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_now()

    # --- reading ---

    def _begin(self, data: bytes) -> None:
        """Bytes that begin a request; the usual case is that they are one, whole."""
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > self._server.head_limit:
            self._held += data
            self._partial_head(end)
            return
        at = end + 4
        size = len(data) - at
        block, known = data[:end], self._known
        if known.again(block, size):
            head, length = known.head, size
        else:
            head = parse_request(block)
            length = head[1]
            if known.chances:
                self._known = KnownHead(block, head, known.chances - 1)
        if length > self._server.body_limit:
            self._too_large()
        if length == size:
            self._dispatch(head, data[at:])
            return
        self._head = head
        self._state = _BODY
        self.deadline = self.timers.now + self._server.config.body_s
        self._chunks = Chunks() if length == CHUNKED else None
        self._feed_body(data[at:])
        if self._state == _BODY and head[4] and not self._body:
            self.write(_CONTINUE)

    def _more(self, data: bytes) -> None:
        state = self._state
        if state == _BODY:
            self._feed_body(data)
        elif state == _HEAD:
            self._held += data
            end = self._held.find(b"\r\n\r\n", max(0, self._scanned - 3))
            if end < 0 or end > self._server.config.header_bytes:
                self._partial_head(end)
            else:
                self._next()
        elif state == _ANSWER:
            self._held += data
            if len(self._held) > PIPELINED_BYTES:
                self.transport.pause_reading()

    def _next(self) -> None:
        """Take up what is held. Runs by itself, too, after a pipelined request was answered."""
        if self._state != _HEAD or not self._held:
            return
        data = bytes(self._held)
        self._held.clear()
        self._scanned = 0
        self.transport.resume_reading()
        self.data_received(data)

    def _partial_head(self, end: int) -> None:
        """A head that has not ended: refuse early what can never become one."""
        held = self._held
        if end < 0 and not self._scanned:  # its first bytes: from here on it is no idle connection
            self.deadline = self.timers.now + self._server.config.head_s
        if end > 0 or len(held) > self._server.config.header_bytes:
            if b"\r\n" in held[: self._server.config.header_bytes]:
                raise BadMessageError(431, "headers_too_large", "the header fields are too large")
            raise BadMessageError(414, "target_too_long", "the request line is too long")
        fresh = bytes(held[max(0, self._scanned - 1) :])
        self._scanned = len(held)
        if not held[:1].isalpha() or b"\0" in fresh or fresh.count(b"\n") > fresh.count(b"\r\n") + (fresh[:1] == b"\n"):
            raise BadMessageError(400, "bad_head", "this is no HTTP request")

    def _feed_body(self, data: bytes) -> None:
        head = cast("RequestHead", self._head)
        if self._chunks is not None:
            self._feed_chunks(head, self._chunks, data)
            return
        length = head[1]
        if not self._body and len(data) == length:
            self._dispatch(head, data)
            return
        self._keep_body(data)
        body = self._body
        if len(body) >= length:
            self._held += body[length:]
            del body[length:]
            self._dispatch(head, self._whole_body())

    def _feed_chunks(self, head: RequestHead, chunks: Chunks, data: bytes) -> None:
        self._keep_body(chunks.feed(data))
        size = len(self._body)
        if size > self._server.body_limit:
            self._too_large()
        if chunks.count > 1024 + size // LEAST_CHUNK:
            raise BadMessageError(400, "tiny_chunks", "the body comes in too many too small chunks")
        if chunks.done:
            self._chunks = None
            self._held += chunks.surplus
            self._dispatch(head, self._whole_body())

    def _keep_body(self, data: bytes) -> None:
        """Hold a part of a body, within what all unfinished bodies together may take."""
        self._body += data
        self._kept += len(data)
        self._server.kept_bytes += len(data)
        if self._server.kept_bytes > BODIES_BYTES:
            raise BadMessageError(503, "too_much_at_once", "too many large requests are arriving; try again later")

    def _whole_body(self) -> bytes:
        body = bytes(self._body)
        self._forget_body()
        return body

    def _forget_body(self) -> None:
        self._server.kept_bytes -= self._kept
        self._kept = 0
        self._body = bytearray()

    def _dispatch(self, head: RequestHead, body: bytes) -> None:
        request, _, keep, minor, _ = head
        request.body = body
        server = self._server
        handle = server.handler
        self._head = None
        self._state = _ANSWER
        self.deadline = NEVER
        self.keep = keep and not server.draining
        answer = self._answer = Answer(self, minor, request.method == "HEAD")
        try:
            handle(request, answer)
        except Exception:
            log.exception("a request could not be handled")
            self._fail(answer)

    def _fail(self, answer: Answer) -> None:
        self.keep = False
        if answer.fresh:
            answer.drop()
            self.refuse(500, "internal_error", "the gateway failed; its log says why")
        else:
            answer.abort()

    # --- ends ---

    def _too_large(self) -> None:
        limit = self._server.body_limit
        raise BadMessageError(413, "body_too_large", f"the body is larger than {limit} bytes")

    def _finish(self) -> None:
        """Close once everything written has left; a caller that takes nothing is not waited for."""
        if self._state in (_CLOSING, _LINGER, _LOST):
            return
        self._drop()
        self._state = _CLOSING
        self.timers.outbox.flush()
        self._await_flush()
        self.transport.close()

    def _lose(self) -> None:
        answer = self._answer
        self._drop()
        self._state = _LOST
        self.deadline = NEVER
        if answer is not None:
            try:
                answer.gone()
            except Exception:
                log.exception("the loss of a caller could not be handled")

    def _drop(self) -> None:
        self._answer = None
        self._head = None
        self._chunks = None
        self._held.clear()
        self._forget_body()

    def _await_flush(self) -> None:
        self._pending = self.transport.get_write_buffer_size()
        self.deadline = self.timers.now + self._server.config.write_s

    def _flushes(self) -> bool:
        """Whether the caller took something of what waits for it since this was last asked."""
        left = self.transport.get_write_buffer_size()
        if not left or 0 < self._pending <= left:
            return False
        self._await_flush()
        return True
