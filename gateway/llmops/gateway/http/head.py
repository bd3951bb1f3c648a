"""Reads the heads of HTTP/1.1 messages, strictly, and each line only once.

Clients and upstreams send the same lines again and again; a line that was checked is remembered with its parsed form,
so that a known head costs one split and a dictionary lookup a line. Lines that carry secrets are never remembered, but
within a whole head, by the connection that it came on (`KnownHead`).
Whatever two parsers could read differently is refused (RFC 9112 sections 2.2, 3, 5.1, 5.2 and 6.3, and section 11.2 on
request smuggling): bare CR or LF, folded lines, space before a colon, control characters, a body with two lengths.
Knows no socket and no time.
"""

from __future__ import annotations

import re
from hmac import compare_digest
from typing import Final, NamedTuple

from llmops.core.errors import UserError
from llmops.gateway.calls import Request

Field = tuple[bytes, bytes]

FIELDS_LIMIT: Final = 100
TARGET_LIMIT: Final = 8 * 1024
LENGTH_DIGITS: Final = 15
CHUNKED: Final = -1
"""In place of a length: the body says itself where it ends."""

METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
SECRETS: Final = frozenset(
    (b"authorization", b"x-api-key", b"api-key", b"cookie", b"proxy-authorization", b"x-goog-api-key")
)
SINGLE: Final = SECRETS | frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"content-type", b"expect", b"content-encoding")
)

STREAMS: Final = (b"text/event-stream", b"application/vnd.amazon.eventstream")

_KEPT_LINES: Final = 2048
_REPLY_CHANCES: Final = 1000
_KEPT_BYTES: Final = 160
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE_BYTES: Final = bytes(byte for byte in range(256) if byte == 9 or (byte >= 32 and byte != 127))
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_TARGET: Final = re.compile(rb"/[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]*")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]+)(/?.*)", re.IGNORECASE)
_LENGTH_LINE: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)(?=\r\n|\Z)", re.IGNORECASE)
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")


class BadMessageError(UserError):
    """The bytes are no HTTP message that everyone would read alike, or one beyond the limits."""

    def __init__(self, status: int, code: str, what: str) -> None:
        super().__init__(what, code=code)
        self.status = status


class RequestLine(NamedTuple):
    method: str
    path: str
    query: str
    minor: int
    authority: bytes
    """Of a target in absolute form; must agree with Host."""


RequestHead = tuple[Request, int, bool, int, bool]
"""The request without its body; the body's length or `CHUNKED`; whether the connection may be kept; the minor version;
whether `100 Continue` is awaited. A plain tuple: this is made for every request."""

ReplyHead = tuple[int, list[Field], int | None, bool, bool]
"""Status; headers; the body's length, `CHUNKED`, or None for until the connection closes; whether the connection may be
kept; whether the body is an event stream."""


class KnownHead:
    """A head that was read: the same caller's next one is the same but for its content-length, and need not be read.

    It holds the caller's key as long as the connection lasts, and is compared in constant time, since behind a proxy
    the next request of a connection may be somebody else's.

    Args:
        chances: how many further heads of the connection are worth remembering, where this one does not come again.
    """

    __slots__ = ("_after", "_before", "chances", "head")

    def __init__(self, block: bytes, head: RequestHead, chances: int) -> None:
        self.head = head
        self.chances = chances
        self._before = self._after = b""  # with which no head compares
        match = _LENGTH_LINE.search(block)
        if match is not None and not head[4]:
            self._before, self._after = block[: match.start(1)], block[match.end(1) :]

    def again(self, block: bytes, length: int) -> bool:
        """Whether this is the head once more, of a request with a body of this length."""
        return compare_digest(block, b"%b%d%b" % (self._before, length, self._after))


class KnownReply:
    """A reply's head that was read: within a second a server says the same but for the content-length.

    Where its heads differ each time (an id, a measured time) nothing is gained: after some that did not come again,
    none is remembered any more.
    """

    __slots__ = ("_after", "_before", "_chances", "_head")

    def __init__(self) -> None:
        self._before, self._after = b"\n", b""  # with which no head compares
        self._chances = _REPLY_CHANCES
        self._head: ReplyHead = (0, [], 0, False, False)

    def read(self, block: bytes, length: int) -> ReplyHead:
        """As `parse_reply` for a reply with a body, of which so many bytes have arrived."""
        if self._chances:
            if block == b"%b%d%b" % (self._before, length, self._after):
                self._chances = _REPLY_CHANCES
                status, headers, _, keep, streamed = self._head
                return status, headers, length, keep, streamed
            self._chances -= 1
            return self._learnt(block)
        return parse_reply(block)

    def _learnt(self, block: bytes) -> ReplyHead:
        head = parse_reply(block)
        match = _LENGTH_LINE.search(block)
        if match is not None and head[2] and head[0] >= 200:  # else the one before stays, with what it was read as
            self._head = head
            self._before, self._after = block[: match.start(1)], block[match.end(1) :]
        return head


class _Lines(dict[bytes, Field]):
    """Checked header lines. Look-ups that miss parse; what holds a secret or is long is parsed each time."""

    def __missing__(self, line: bytes) -> Field:
        field = parse_field(line)
        if len(line) <= _KEPT_BYTES and field[0] not in SECRETS:
            if len(self) >= _KEPT_LINES:
                self.clear()
            self[line] = field
        return field


class _RequestLines(dict[bytes, RequestLine]):
    def __missing__(self, line: bytes) -> RequestLine:
        parsed = parse_request_line(line)
        if len(line) <= _KEPT_BYTES:
            if len(self) >= _KEPT_LINES:
                self.clear()
            self[line] = parsed
        return parsed


class _StatusLines(dict[bytes, tuple[int, int]]):
    def __missing__(self, line: bytes) -> tuple[int, int]:
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise BadMessageError(502, "bad_status_line", "the reply does not begin as HTTP/1.1 does")
        parsed = int(match[2]), int(match[1])
        if len(line) <= _KEPT_BYTES and len(self) < _KEPT_LINES:
            self[line] = parsed
        return parsed


class _Names(dict[bytes, bytes]):
    """Checked header names in lower case."""

    def __missing__(self, name: bytes) -> bytes:
        if _TOKEN.fullmatch(name) is None:
            raise BadMessageError(400, "bad_header", "a header line has no valid name before a colon")
        lower = name.lower()
        if len(name) <= 64 and len(self) < _KEPT_LINES:
            self[name] = lower
        return lower


_field = _Lines().__getitem__
_request_lines = _RequestLines()
_status_lines = _StatusLines()
_names = _Names()


def parse_request(block: bytes) -> RequestHead:
    """Read a head without its empty line. Raises `BadMessageError` with the status to answer."""
    lines = block.split(b"\r\n")
    method, path, query, minor, authority = _request_lines[lines[0]]
    del lines[0]
    headers = dict(map(_field, lines))
    if len(headers) != len(lines):
        headers = _joined([_field(line) for line in lines])
    if len(lines) > FIELDS_LIMIT:
        raise BadMessageError(431, "too_many_headers", f"more than {FIELDS_LIMIT} header fields")
    get = headers.get
    host = get(b"host")
    if (host is None and minor) or (authority and host != authority):
        raise BadMessageError(400, "bad_host", "the Host header is missing or is not the target's")
    if b"transfer-encoding" in headers:
        length = _coded(headers, minor)
    else:
        size = headers.pop(b"content-length", None)  # the transport's own; another one's for a head known again
        length = 0 if size is None else parse_length(size)
    connection = get(b"connection")
    keep = minor == 1 if connection is None else _keeps(connection, minor)
    expects = b"expect" in headers and _expects(headers[b"expect"], minor)
    return Request(method, path, query, headers, b""), length, keep, minor, expects


def parse_reply(block: bytes, bodyless: bool = False) -> ReplyHead:
    """Read an upstream's head without its empty line; `bodyless` for the reply to HEAD."""
    lines = block.split(b"\r\n")
    status, minor = _status_lines[lines[0]]
    del lines[0]
    headers = list(map(_field, lines))
    fields = dict(headers)
    if len(fields) != len(headers):
        fields = _joined(headers)
    if b"content-encoding" in fields and fields[b"content-encoding"].lower() != b"identity":
        raise BadMessageError(502, "bad_encoding", "it is compressed, which was not asked for")
    get = fields.get
    connection = get(b"connection")
    keep = minor == 1 if connection is None else _keeps(connection, minor)
    streamed = get(b"content-type", b"").startswith(STREAMS)
    if bodyless or status in (204, 304) or status < 200:
        return status, headers, 0, keep, streamed
    size = get(b"content-length")
    if b"transfer-encoding" in fields:
        length: int | None = _coded(fields, minor)
    else:
        length = None if size is None else parse_length(size)
    return status, headers, length, keep and length is not None, streamed


def parse_field(line: bytes) -> Field:
    """One header line as lower-case name and bare value; values stay bytes, whatever their encoding."""
    name, _, value = line.partition(b":")
    name = _names[name]
    value = value.strip(b" \t")
    if value.translate(None, _VALUE_BYTES):
        raise BadMessageError(400, "bad_header", "a header value holds a control character")
    if len(name) + len(value) == len(line):
        raise BadMessageError(400, "bad_header", "a header line has no colon")
    if name == b"host" and _HOST.fullmatch(value) is None:
        raise BadMessageError(400, "bad_host", "the Host header names no host")
    return name, value


def parse_request_line(line: bytes) -> RequestLine:
    parts = line.split(b" ")
    if len(parts) != 3 or _TOKEN.fullmatch(parts[0]) is None:
        raise BadMessageError(400, "bad_request_line", "the request line is not `METHOD target HTTP/1.1`")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        known = version.startswith(b"HTTP/") and len(version) == 8
        raise BadMessageError(505 if known else 400, "bad_version", "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if method not in METHODS:
        raise BadMessageError(501, "unknown_method", "the method is not known here")
    if len(target) > TARGET_LIMIT:
        raise BadMessageError(414, "target_too_long", f"the path and query are longer than {TARGET_LIMIT} bytes")
    authority = b""
    if match := _ABSOLUTE.fullmatch(target):
        authority, target = match[1], match[2] or b"/"
    if _TARGET.fullmatch(target) is None:
        raise BadMessageError(400, "bad_target", "the request target is not a path")
    path, _, query = target.decode("ascii").partition("?")
    return RequestLine(method.decode("ascii"), path, query, int(version[-1:]), authority)


def _joined(fields: list[Field]) -> dict[bytes, bytes]:
    """Repeated headers as one, save those where two would be read differently by different servers."""
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        if name not in headers:
            headers[name] = value
        elif name in SINGLE:
            raise BadMessageError(400, "repeated_header", f"the header `{name.decode('ascii')}` stands there twice")
        else:
            headers[name] += b", " + value
    return headers


def _keeps(connection: bytes, minor: int) -> bool:
    options = {option.strip().lower() for option in connection.split(b",")}
    return b"close" not in options and (minor == 1 or b"keep-alive" in options)


def _coded(headers: dict[bytes, bytes], minor: int) -> int:
    if b"content-length" in headers:
        raise BadMessageError(400, "two_lengths", "both Content-Length and Transfer-Encoding are there")
    if headers[b"transfer-encoding"].lower() != b"chunked" or minor == 0:
        raise BadMessageError(400, "bad_transfer_encoding", "the only transfer coding is `chunked`, in HTTP/1.1")
    return CHUNKED


def parse_length(value: bytes) -> int:
    """Digits only: int() alone would take `+5`, `5_0` and blanks."""
    if not value.isdigit() or len(value) > LENGTH_DIGITS:
        raise BadMessageError(400, "bad_content_length", "Content-Length is not a number of bytes")
    return int(value)


def _expects(value: bytes, minor: int) -> bool:
    if value.lower() != b"100-continue":
        raise BadMessageError(417, "bad_expectation", "the only expectation met here is `100-continue`")
    return minor == 1
