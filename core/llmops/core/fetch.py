"""Fetches what lies at a URL of the internet: bounded, never from a private address unless that is allowed.

Each name is resolved once and the connection goes to the address that was checked (DNS rebinding leads nowhere); each
redirect is checked anew, and one that leads from https to http is refused. Knows HTTP; what is fetched is its caller's
matter.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from llmops.core.addresses import checked_address
from llmops.core.errors import DeniedError, UpstreamError, UserError

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_BLOCK = 1 << 16
_AGENT = "llmops"
_URL_CHARS = "%/?#[]@!$&'()*+,;=:~"
"""What stands for itself in a URL (RFC 3986, section 2.2); the rest of a readable one is sent as UTF-8, encoded."""


@dataclass(frozen=True)
class Bounds:
    """What one fetch may cost.

    Args:
        max_bytes: of the body, after unpacking.
        timeout_s: of each wait for the network.
        private: whether private and loopback addresses may be called.
        hint: how a user allows private addresses.
        total_s: of the whole fetch: a server may send a byte now and then for ever.
    """

    max_bytes: int = 200_000_000
    timeout_s: float = 30.0
    private: bool = False
    hint: str = "allow private addresses in the configuration if it is meant"
    total_s: float = 600.0


@dataclass(frozen=True)
class Fetched:
    """An answer. Header names are lower-case; `url` is where redirects led."""

    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def shown(url: str) -> str:
    """A URL as it may be shown: without user, password and query."""
    parts = urlsplit(url)
    host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    return f"{parts.scheme}://{host}{parts.path}"


def fetch(url: str, headers: Mapping[str, str] | None = None, bounds: Bounds | None = None) -> Fetched:
    """GET a URL. Any status comes back; only 2xx has its body.

    Args:
        headers: are sent to the URL's own origin only, never to where a redirect leads.

    Raises:
        DeniedError: an address is not of the internet, or a redirect leads where it may not.
        UpstreamError: no answer, a broken one, or too many redirects.
        UserError: the body is larger than allowed.
    """
    bounds = bounds or Bounds()
    own = dict(headers or {})
    origin = _origin(_split(url))
    for _ in range(_MOST_REDIRECTS + 1):
        parts = _split(url)
        sent = own if _origin(parts) == origin else {}
        try:
            answer = _get(parts, url, sent, bounds)
        except (OSError, UnicodeError, http.client.HTTPException, zlib.error) as error:
            raise UpstreamError(f"the fetch failed: {error}", where=shown(url)) from error
        if answer.status not in _REDIRECTS or "location" not in answer.headers:
            return answer
        target = _target(url, answer.headers["location"])
        if parts.scheme == "https" and _split(target).scheme != "https":
            raise DeniedError("a redirect leads from https to http", where=shown(url), code="insecure_redirect")
        url = target
    raise UpstreamError(f"more than {_MOST_REDIRECTS} redirects", where=shown(url))


def _target(url: str, location: str) -> str:
    """Where a redirect leads; bytes that are no ASCII go back to the server as it sent them.

    Raises:
        UpstreamError: nowhere.
    """
    try:
        return urljoin(url, quote(location.encode("latin-1"), safe=_URL_CHARS))
    except ValueError as error:
        raise UpstreamError(f"a redirect leads nowhere: {error}", where=shown(url)) from error


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UserError(f"the URL cannot be read: {error}", where=url[:200]) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UserError("only http:// and https:// URLs are fetched", where=shown(url))
    return parts


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port


@contextmanager
def _connected(parts: SplitResult, bounds: Bounds) -> Iterator[http.client.HTTPConnection]:
    host, https = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if https else 80)
    address = checked_address(host, port, private=bounds.private, hint=bounds.hint)
    connection = http.client.HTTPConnection(host, port, timeout=bounds.timeout_s)
    with socket.create_connection((address, port), bounds.timeout_s) as opened, _ended_after(opened, bounds.total_s):
        try:
            connection.sock = _tls().wrap_socket(opened, server_hostname=host) if https else opened
            yield connection
        finally:
            connection.close()


@contextmanager
def _ended_after(opened: socket.socket, total_s: float) -> Iterator[None]:
    """Shut a connection once its time is over; what came until then counts as nothing.

    Raises:
        TimeoutError: the block took longer.
    """
    late = threading.Event()
    with socket.fromfd(opened.fileno(), opened.family, opened.type) as ours:  # TLS takes the other one away

        def end() -> None:
            late.set()
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(total_s, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            if late.is_set():
                raise TimeoutError(f"it took more than {total_s:g} s")


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _get(parts: SplitResult, url: str, headers: Mapping[str, str], bounds: Bounds) -> Fetched:
    path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_URL_CHARS)
    standard = {"user-agent": _AGENT, "accept-encoding": "gzip", "accept": "*/*"}
    with _connected(parts, bounds) as connection:
        connection.request("GET", path, headers={**standard, **headers})
        answer = connection.getresponse()
        received = {name.lower(): value for name, value in answer.getheaders()}
        body = _body(answer, received, url, bounds) if 200 <= answer.status < 300 else b""
        return Fetched(answer.status, url, received, body)


def _body(answer: http.client.HTTPResponse, headers: Mapping[str, str], url: str, bounds: Bounds) -> bytes:
    """The whole body, unpacked; stops at the first byte too many, however small the packed one was."""
    unpack = zlib.decompressobj(16 + zlib.MAX_WBITS) if headers.get("content-encoding") == "gzip" else None
    parts: list[bytes] = []
    size = 0
    while block := answer.read(_BLOCK):
        while block:
            part = unpack.decompress(block, _BLOCK) if unpack else block
            block = unpack.unconsumed_tail if unpack else b""
            size += len(part)
            if size > bounds.max_bytes:
                raise UserError(f"more than {bounds.max_bytes:,} bytes", where=shown(url), code="too_large")
            parts.append(part)
    if unpack is not None and not unpack.eof:
        raise UpstreamError("the answer ends in the middle", where=shown(url))
    if unpack is None and answer.length:
        raise UpstreamError("the answer ends in the middle", where=shown(url))
    return b"".join(parts)
