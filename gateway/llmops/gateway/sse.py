"""Cuts a stream of server-sent events into whole events, wherever the network happened to cut it into pieces.

Knows lines, fields and bounds; refuses to know what an event means. Never waits for a byte it does not need: an event
is given as soon as its blank line ended.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re

from llmops.gateway.calls import Fault

HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))
"""Of a reply that is such a stream."""

MAX_EVENT_BYTES = 8 * 1024**2
"""Longest event held in memory. Pictures travel within one event, so this is far above any text."""

Event = tuple[bytes, bytes]
"""Name (empty where the stream gave none) and data."""

_BLANK = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")  # atomic: one CRLF is no blank line
_END_OF_LINE = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Splitter:
    """The events of one stream. Use `feed` to read them, or `whole` to pass them on; not both on one stream.

    Raises Fault(`invalid`) for an event longer than `max_bytes`.
    """

    __slots__ = ("_max_bytes", "_rest", "_started")

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._started = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that are whole now; comments and events without data are none."""
        if (
            not self._rest
            and data[:6] == b"data: "
            and data.find(b"\n") == len(data) - 2
            and data[-1:] == b"\n"
            and b"\r" not in data
        ):
            self._started = True
            return [(b"", data[6:-2])]
        data = self.whole(data)
        if not data:
            return []
        pieces = _BLANK.split(data) if b"\r" in data else data.split(b"\n\n")
        return [event for event in map(read_event, pieces) if event is not None]

    def whole(self, data: bytes) -> bytes:
        """The bytes up to the end of the last whole event, unchanged; what follows is kept for the next call."""
        if not self._started:
            data = self._begin(data)
        if not self._rest and data[-2:] == b"\n\n":
            return data
        seen = len(self._rest)
        self._rest += data
        end = self._last_boundary(max(seen - 3, 0))
        if not end and self._rest.startswith(b"\n"):
            end = 1  # the other half of a CRLF whose CR ended the last event
        if len(self._rest) - end > self._max_bytes:
            self._rest.clear()
            raise Fault("invalid", f"the provider sent an event of more than {self._max_bytes} bytes")
        ready = bytes(self._rest[:end])
        del self._rest[:end]
        return ready

    @property
    def pending(self) -> int:
        """Bytes of an event that is not whole yet."""
        return len(self._rest)

    def _begin(self, data: bytes) -> bytes:
        """Drop a byte order mark, which only the stream's very begin may hold."""
        data = bytes(self._rest) + data
        self._rest.clear()
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._rest += data
            return b""
        self._started = True
        return data.removeprefix(_BOM)

    def _last_boundary(self, start: int) -> int:
        """Where the last blank line ends, 0 for none. A boundary before `start` was given out already."""
        tail = self._rest[start:]
        if b"\r" not in tail:
            found = tail.rfind(b"\n\n")
            return start + found + 2 if found >= 0 else 0
        end = 0
        for match in _BLANK.finditer(self._rest, start):
            end = match.end()
        return end


def blocks(data: bytes) -> list[bytes]:
    """Whole events, each with the blank line that ends it: joined again, they are `data`."""
    if b"\r" not in data:
        pieces = data.split(b"\n\n")
        rest = pieces.pop()
        found = [piece + b"\n\n" for piece in pieces]
        return [*found, rest] if rest else found
    ends = [match.end() for match in _BLANK.finditer(data)]
    if not ends or ends[-1] != len(data):
        ends.append(len(data))
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def read_event(block: bytes) -> Event | None:
    """Name and data of one block of lines; None for one without data, as comments are. The usual shapes first."""
    if block[-2:] == b"\n\n":
        block = block[:-2]
    if block[:6] == b"data: " and b"\n" not in block and b"\r" not in block:
        return b"", block[6:]
    if block[:7] == b"event: " and b"\r" not in block:
        name, _, data = block.partition(b"\n")
        if data[:6] == b"data: " and b"\n" not in data:
            return name[7:], data[6:]
    return _any_event(block)


def _any_event(block: bytes) -> Event | None:
    name, data = b"", None
    for line in _END_OF_LINE.split(block):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data = value if data is None else data + b"\n" + value
        elif field == b"event":
            name = value
    return None if data is None else (name, data)
