"""The way back to one caller: a whole reply in one write, or a stream of chunks, framed here and nowhere else.

Knows how a reply is laid out for HTTP/1.1, HTTP/1.0 and HEAD. When to close, and what comes next on the connection, is
the connection's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from llmops.gateway.calls import Headers
from llmops.gateway.http.frame import STATUS_LINES, field_lines, standing_lines

if TYPE_CHECKING:
    from llmops.gateway.http.door import Connection

JOINED_BYTES: Final = 64 * 1024
"""A larger body is written by itself: copying it behind its head would cost more than a system call."""

_FRESH: Final = 0
_STREAMING: Final = 1
_OVER: Final = 2
_GONE: Final = 3
_CLOSE: Final = b"connection: close\r\n"
_KEEP_10: Final = b"connection: keep-alive\r\n"


class Answer:
    """Implements `calls.Responder`. Once the caller is gone, everything written here is dropped in silence."""

    __slots__ = ("_bodyless", "_chunked", "_connection", "_head", "_minor", "_state", "on_drain", "on_gone")

    _head: bytes
    _chunked: bool

    def __init__(self, connection: Connection, minor: int, bodyless: bool) -> None:
        self._connection = connection
        self._minor = minor
        self._bodyless = bodyless
        self._state = _FRESH
        self.on_gone: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None

    @property
    def full(self) -> bool:
        return self._connection.full

    @property
    def fresh(self) -> bool:
        """Nothing was answered yet."""
        return self._state == _FRESH

    def send(self, status: int, headers: Headers, body: bytes, standing: Headers = ()) -> None:
        if self._state != _FRESH:
            return self._late()
        connection = self._connection
        shared, lines = standing_lines(standing), field_lines(headers)
        if status in (204, 304):
            size, body = b"\r\n", b""
        else:
            size = b"content-length: %d\r\n\r\n" % len(body)
        if self._bodyless:
            body = b""
        self._state = _OVER
        persistence = b"" if self._minor and connection.keep else self._persistence()
        timers = connection.timers
        joined = len(body) <= JOINED_BYTES
        rest = body if joined else b""
        timers.outbox.write(
            connection.transport,
            b"".join((STATUS_LINES[status], timers.date, shared, lines, persistence, size, rest)),
        )
        if not joined:
            timers.outbox.write(connection.transport, body)
        self.on_gone = self.on_drain = None  # they hold whoever answered, who holds this
        connection.answered()
        return None

    def start(self, status: int, headers: Headers) -> None:
        """The head waits for the first chunk of this turn of the loop, to leave with it in one write."""
        if self._state != _FRESH:
            return self._late()
        connection = self._connection
        lines = field_lines(headers)
        self._state = _STREAMING
        self._chunked = self._minor == 1
        if self._chunked:
            framing = b"transfer-encoding: chunked\r\n\r\n"
        else:
            connection.keep = False
            framing = b"\r\n"
        self._head = b"".join((STATUS_LINES[status], connection.timers.date, lines, self._persistence(), framing))
        connection.soon(self._flush)
        return None

    def write(self, data: bytes) -> None:
        if self._state != _STREAMING:
            return self._late()
        if self._bodyless or not data:  # an empty chunk would be the end
            return None
        if self._chunked:
            data = b"%b%x\r\n%b\r\n" % (self._head, len(data), data)
        elif self._head:
            data = self._head + data
        self._head = b""
        self._connection.write(data)
        return None

    def end(self) -> None:
        if self._state != _STREAMING:
            return self._late()
        self._state = _OVER
        last = b"0\r\n\r\n" if self._chunked and not self._bodyless else b""
        if self._head or last:
            self._connection.write(self._head + last)
            self._head = b""
        self.on_gone = self.on_drain = None
        self._connection.answered()
        return None

    def abort(self) -> None:
        if self._state < _OVER:
            self.drop()
            self._connection.cut(reset=self._minor == 0)

    def drop(self) -> None:
        """The connection answers by itself, or no more: whatever still comes here is dropped."""
        self._state = _GONE
        self.on_gone = self.on_drain = None

    def gone(self) -> None:
        """The connection was lost: tell whoever answers, once."""
        if self._state < _OVER:
            on_gone = self.on_gone
            self.drop()
            if on_gone is not None:
                on_gone()

    def _flush(self) -> None:
        if self._state == _STREAMING and self._head:
            self._connection.write(self._head)
            self._head = b""

    def _persistence(self) -> bytes:
        if self._connection.keep:
            return b"" if self._minor else _KEEP_10
        return _CLOSE

    def _late(self) -> None:
        if self._state != _GONE:
            raise RuntimeError("a reply is either sent whole, or started, written and ended, once")
