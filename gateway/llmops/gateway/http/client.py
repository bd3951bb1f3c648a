"""The providers' side of the door: a pool of kept connections to one origin, and calls that wait for none.

A call over a kept connection makes no task and no future. A call that has no connection waits in line, first come,
first served, within `connect_s`; the line is as long as the pool is wide. A kept connection that proves dead before the
first byte of its reply is replaced once, by a new one: nothing of the reply was lost, and a close that crossed the
request on its way is the usual cause.

Outgoing safety: this pool connects to the operator's configured URL alone, so addresses of private networks are
allowed (a vLLM next door is the normal case); nothing that a caller sends can change host or port, and a line break
in a header or path is refused before anything is written. Proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from typing import Final

from llmops.gateway.calls import Fault, Headers, Listener, UpstreamRequest
from llmops.gateway.config import ProviderConfig
from llmops.gateway.http.dial import Dialer, Origin
from llmops.gateway.http.frame import field_lines
from llmops.gateway.http.head import KnownReply
from llmops.gateway.http.timers import NEVER, Timers
from llmops.gateway.http.tls import client_context
from llmops.gateway.http.upstream import Call, Upstream

REPLY_BYTES: Final = 64 * 1024**2
"""The largest reply that is no event stream."""

_AGENT: Final = b"user-agent: llmops-gateway\r\n"
_PREFIXES: Final = 1024
_PATH: Final = re.compile(r"/[!-~]*")
_METHOD: Final = re.compile(r"[A-Z]+")

log = logging.getLogger(__name__)


class OriginPool:
    """Implements `calls.Pool`. `on_fault` is never called from within `call`, only later.

    Must be built in the loop that it works in. Raises ConfigError for a URL or TLS file that cannot be used.
    """

    def __init__(self, config: ProviderConfig, timers: Timers, *, reply_bytes: int = REPLY_BYTES) -> None:
        self.config = config
        self._idle_s = config.idle_connection_s
        self.timers = timers
        self.reply_bytes = reply_bytes
        self.deadline = NEVER
        origin = Origin.of(config.base_url)
        self._host = origin.authority
        self._loop = asyncio.get_running_loop()
        self.context = client_context(config.tls) if origin.secure else None
        self._dialer = Dialer(origin, self.context, config.tls.server_name)
        self._idle: list[Upstream] = []
        self._open: set[Upstream] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._waiting: deque[Call] = deque()
        self._prefixes: dict[tuple[str, str], bytes] = {}
        self.known = KnownReply()
        self._last_headers: Headers = ()
        self._last_lines = b""
        self._closed = False
        timers.watch(self)

    @property
    def connections(self) -> int:
        """Open ones, at work or kept."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def call(self, request: UpstreamRequest, listener: Listener, *, first_byte_s: float, idle_s: float) -> Call:
        call = Call(self, listener, first_byte_s, idle_s)
        try:
            call.wire = self._wire(request)
        except ValueError as error:
            self._fail_later(call, Fault("bad_request", f"the request cannot be sent: {error}", 400))
            return call
        call.bodyless = request.method == "HEAD"
        if self._idle:
            self._idle.pop().begin(call)
        else:
            self._queue(call)
        return call

    def close(self) -> None:
        """Cut everything; calls under way fault as `cancelled`."""
        self._closed = True
        self.timers.forget(self)
        for task in list(self._dials):
            task.cancel()
        self._dialer.close()
        while self._waiting:
            self._waiting.popleft().fail(_stopping())
        for connection in list(self._open):
            connection.fail(_stopping())
        self._idle.clear()

    def expire(self) -> None:
        """Calls at the head of the line have waited too long."""
        limit = self.deadline
        while self._waiting and self._waiting[0].deadline <= limit:
            self._waiting.popleft().fail(Fault("connect_timeout", "no connection to the upstream in time", 504))
        self._mark()

    # --- called by connections and calls ---

    def release(self, connection: Upstream) -> None:
        """A connection is free: it serves who waits longest, or is kept."""
        if self._waiting and self._serve(connection):
            self._mark()
        elif self._waiting and not self._dials:
            connection.cut()  # it takes the place of the new one that is waited for
        else:
            connection.deadline = self.timers.now + self._idle_s
            self._idle.append(connection)

    def _serve(self, connection: Upstream) -> bool:
        """Begin a call that waits; one whose kept connection was dead takes a new connection only."""
        for call in self._waiting:
            if not (call.replaced and connection.used):
                self._waiting.remove(call)
                connection.begin(call)
                return True
        return False

    def lost(self, connection: Upstream) -> None:
        self.timers.forget(connection)
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._dial_for_waiting()

    def replace(self, call: Call) -> None:
        """The call's kept connection was dead: first in line for a new one, not for another kept one."""
        call.deadline = self.timers.now + self.config.connect_s
        self._waiting.appendleft(call)
        self._mark()
        self._dial()

    def leave(self, call: Call) -> None:
        """A call that waits was cancelled."""
        if call in self._waiting:
            self._waiting.remove(call)
            self._mark()

    # --- connections to be ---

    def _queue(self, call: Call) -> None:
        if self._closed:
            self._fail_later(call, _stopping())
            return
        if len(self._waiting) - len(self._dials) >= self.config.connections:
            self._fail_later(call, Fault("overloaded", "too many calls wait for this upstream", 503))
            return
        call.deadline = self.timers.now + self.config.connect_s
        self._waiting.append(call)
        self._mark()
        self._dial_for_waiting()

    def _dial_for_waiting(self) -> None:
        if len(self._dials) < len(self._waiting):
            self._dial()

    def _dial(self) -> None:
        if self._closed or len(self._open) + len(self._dials) >= self.config.connections:
            return
        task = self._loop.create_task(self._connect())
        self._dials.add(task)
        task.add_done_callback(self._dialled)

    async def _connect(self) -> None:
        try:
            connection = await self._dialer.dial(lambda: Upstream(self), self.config.connect_s)
        except Fault as fault:
            self._fail_first(fault)
        except Exception:
            log.exception("a connection could not be opened")
            self._fail_first(Fault("refused", "the upstream takes no connection"))
        else:
            self._opened(connection)

    def _opened(self, connection: Upstream) -> None:
        if connection.lost:
            self._fail_first(Fault("refused", "the upstream closed the connection at once"))
            return
        self._open.add(connection)
        self.timers.watch(connection)
        if self._closed:
            connection.cut()
        else:
            self.release(connection)

    def _dialled(self, task: asyncio.Task[None]) -> None:
        self._dials.discard(task)
        self._dial_for_waiting()

    def _fail_first(self, fault: Fault) -> None:
        if self._waiting:
            self._waiting.popleft().fail(fault)
            self._mark()

    def _mark(self) -> None:
        self.deadline = self._waiting[0].deadline if self._waiting else NEVER

    def _fail_later(self, call: Call, fault: Fault) -> None:
        self._loop.call_soon(call.fail, fault)

    # --- the request's bytes ---

    def _wire(self, request: UpstreamRequest) -> bytes:
        prefix = self._prefixes.get((request.method, request.path)) or self._prefix(request)
        headers, body = request.headers, request.body
        if headers is self._last_headers:
            lines = self._last_lines
        else:
            lines = field_lines(headers)
            if not any(name.lower() == b"user-agent" for name, _ in headers):
                lines += _AGENT
            if type(headers) is tuple:  # a provider's constant: checked and laid out once
                self._last_headers, self._last_lines = headers, lines
        if not body and request.method in ("GET", "HEAD"):
            return b"".join((prefix, lines, b"\r\n"))
        return b"".join((prefix, lines, b"content-length: %d\r\n\r\n" % len(body), body))

    def _prefix(self, request: UpstreamRequest) -> bytes:
        """Request line and the headers that are always the same. Raises ValueError for a path that is none."""
        if _PATH.fullmatch(request.path) is None or _METHOD.fullmatch(request.method) is None:
            raise ValueError("its method or path holds a character that none may hold")
        line = f"{request.method} {request.path} HTTP/1.1\r\n".encode("ascii")
        prefix = line + b"host: " + self._host + b"\r\naccept-encoding: identity\r\n"
        if len(self._prefixes) < _PREFIXES:
            self._prefixes[request.method, request.path] = prefix
        return prefix


def _stopping() -> Fault:
    return Fault("cancelled", "the gateway is stopping", 503)
