"""Takes the chunked transfer coding apart, however the bytes are split on arrival (RFC 9112 section 7.1).

One instance reads one body. A read that holds whole chunks costs one search and one slice a chunk. Knows no socket.
"""

from __future__ import annotations

import re
from typing import Final

from llmops.gateway.http.head import BadMessageError, parse_field

_LINE_LIMIT: Final = 256
_TRAILER_LIMIT: Final = 8 * 1024
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})([ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_SIZE_LINE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILER: Final = 3


class _Sizes(dict[bytes, int]):
    """Size lines seen before; a stream repeats a few."""

    def __missing__(self, line: bytes) -> int:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise BadMessageError(400, "bad_chunk", "a chunk does not begin with its size")
        size = int(match[1], 16)
        if match[2] is None and len(line) <= 4 and len(self) < 4096:
            self[line] = size
        return size


_size = _Sizes().__getitem__


class Chunks:
    """A chunked body that is arriving.

    Args:
        extensions: whether chunk extensions are skipped; else they are refused, as nobody sends them to this door
            and parsers differ on them.
    """

    __slots__ = ("_extensions", "_left", "_rest", "_state", "count", "done", "salvaged", "surplus")

    def __init__(self, extensions: bool = False) -> None:
        self._extensions = extensions
        self._state = _SIZE_LINE
        self._left = 0
        self._rest = b""
        self.count = 0
        self.done = False
        self.surplus = b""
        """What arrived after the end: the begin of another message."""
        self.salvaged = b""
        """What could still be read in the bytes that `feed` refused."""

    def feed(self, data: bytes) -> bytes:
        """The payload in these bytes. Raises `BadMessageError`."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        elif self._state == _SIZE_LINE:  # the usual read is one whole chunk
            eol = data.find(b"\r\n", 0, 6)
            if eol > 0:
                stop = eol + 2 + _size(data[:eol])
                if stop + 2 == len(data) and stop > eol + 2 and data.endswith(b"\r\n"):
                    self.count += 1
                    return data[eol + 2 : stop]
        parts: list[bytes] = []
        try:
            self._take_apart(data, parts)
        except BadMessageError:
            self.salvaged = b"".join(parts)
            raise
        if len(parts) == 1:
            return parts[0]
        return b"".join(parts)

    def _take_apart(self, data: bytes, parts: list[bytes]) -> None:
        at, end = 0, len(data)
        while at < end and not self.done:
            state = self._state
            if state == _SIZE_LINE:
                at = self._whole_chunks(data, at, parts)
            elif state == _DATA:
                stop = min(at + self._left, end)
                parts.append(data[at:stop])
                self._left -= stop - at
                at = stop
                if not self._left:
                    self._state = _DATA_END
            elif state == _DATA_END:
                at = self._close_chunk(data, at)
            else:
                at = self._trailer(data, at)
            if self._rest:
                break

    def _whole_chunks(self, data: bytes, at: int, parts: list[bytes]) -> int:
        """As many whole chunks as there are; stops at the first that is not, or at the last one."""
        end = len(data)
        while at < end:
            eol = data.find(b"\r\n", at, at + _LINE_LIMIT)
            if eol < 0:
                self._hold(data, at, _LINE_LIMIT)
                return end
            line = data[at:eol]
            size = _size(line)
            self.count += 1
            if not self._extensions and b";" in line:
                raise BadMessageError(400, "bad_chunk", "chunk extensions are refused")
            at = eol + 2
            if not size:
                self._state = _TRAILER
                return at
            stop = at + size
            if stop + 2 > end:
                self._left = size
                self._state = _DATA
                return at
            if not data.startswith(b"\r\n", stop):
                raise BadMessageError(400, "bad_chunk", "a chunk is longer than its size")
            parts.append(data[at:stop])
            at = stop + 2
        return at

    def _close_chunk(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self._state = _SIZE_LINE
            return at + 2
        if len(data) - at >= 2 or data[at:] != b"\r":
            raise BadMessageError(400, "bad_chunk", "a chunk is longer than its size")
        self._rest = b"\r"
        return at + 1

    def _trailer(self, data: bytes, at: int) -> int:
        """Trailer fields are checked and dropped: nothing here is allowed to depend on them."""
        if data.startswith(b"\r\n", at):
            self.done = True
            self.surplus = data[at + 2 :]
            return at + 2
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            self._hold(data, at, _TRAILER_LIMIT)
            return len(data)
        if end - at > _TRAILER_LIMIT:
            raise BadMessageError(431, "trailer_too_large", "the trailer fields are too large")
        for line in data[at:end].split(b"\r\n"):
            parse_field(line)
        self.done = True
        self.surplus = data[end + 4 :]
        return end + 4

    def _hold(self, data: bytes, at: int, limit: int) -> None:
        if len(data) - at >= limit:
            raise BadMessageError(400, "bad_chunk", "a line between chunks is too long")
        self._rest = data[at:]
