"""Writes the heads of HTTP/1.1 messages, so that no value of ours or of anyone else's can begin another line.

Knows the status lines and the JSON of the errors that the transport itself answers. Knows no socket.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from operator import itemgetter
from typing import Final

import orjson

from llmops.gateway.calls import Headers

OWN: Final = frozenset(
    (
        b"accept-encoding", b"connection", b"content-length", b"date", b"expect", b"host", b"keep-alive", b"te",
        b"trailer", b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip
"""Headers that the transport alone writes: where a message goes, where it ends, what becomes of the connection."""

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_KEPT_NAMES: Final = 1024
_KEPT_STANDING: Final = 4096
_name_of = itemgetter(0)
_pair = b": ".join


class _StatusLines(dict[int, bytes]):
    def __missing__(self, status: int) -> bytes:
        if not 200 <= status <= 999:
            raise ValueError(f"{status} is no status of a final reply")
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        line = self[status] = f"HTTP/1.1 {status} {phrase}\r\n".encode()
        return line


STATUS_LINES: Final = _StatusLines()
_safe_names: set[bytes] = set()


def field_lines(headers: Headers) -> bytes:
    """Header lines, each with its end. Raises ValueError for a name or value that would change the message's shape."""
    if not headers:
        return b""
    if not _safe_names.issuperset(map(_name_of, headers)):
        _check_names(headers)
    lines = b"\r\n".join(map(_pair, headers)) + b"\r\n"
    if len(lines.splitlines()) != len(headers) or 0 in lines:  # splits at CR, LF and CRLF alike
        raise ValueError("a header value holds a line break or NUL")
    return lines


class _Standing(dict[int, tuple[Headers, bytes]]):
    """Lines of headers that come again and again, by the identity of their tuple."""

    def lines(self, headers: Headers) -> bytes:
        found = self.get(id(headers))
        if found is not None and found[0] is headers:
            return found[1]
        lines = field_lines(headers)
        if type(headers) is tuple:  # a list may have changed when it comes again
            if len(self) >= _KEPT_STANDING:
                self.clear()
            self[id(headers)] = headers, lines
        return lines


standing_lines = _Standing().lines
"""As `field_lines`, laid out and checked once for each tuple."""


def error_body(status: int, code: str, message: str) -> bytes:
    """An error in the shape that OpenAI's clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def error_reply(status: int, code: str, message: str, date: bytes) -> bytes:
    """A whole reply after which the connection is closed."""
    body = error_body(status, code, message)
    lines = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    return b"".join((STATUS_LINES[status], date, lines, body))


def _check_names(headers: Headers) -> None:
    for name, _ in headers:
        if _TOKEN.fullmatch(name) is None:
            raise ValueError("a header name holds a character that no name may hold")
        if name.lower() in OWN:
            raise ValueError(f"the header `{name.decode('ascii')}` is written by the transport alone")
        if len(_safe_names) < _KEPT_NAMES:
            _safe_names.add(name)
