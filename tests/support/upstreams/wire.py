"""What the test servers of all providers share: a real socket, scripted answers with faults, a ledger of tokens.

A server says what it was told to, in order, then what `answer` gives. It refuses whatever the real API would refuse,
and keeps what it refused, so that a test sees a translator's mistake as the provider would.
"""

from __future__ import annotations

import json
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

KEY = "sk-upstream-key-of-the-test"


@dataclass(frozen=True)
class Call:
    """A tool call the model makes; its arguments are sent in pieces when streamed."""

    name: str
    arguments: dict[str, Any]
    id: str = "toolu_01A09q90qw90lq917835lq9"
    signature: str | None = None


@dataclass(frozen=True)
class Answer:
    """One scripted answer.

    Args:
        thinking: what the model thinks before it answers; empty for none.
        stop: why it stopped, in the provider's own word; None: the usual one.
        cached: how many of the input tokens came from the provider's cache.
        status: other than 200: `error` is the provider's kind and message of an error.
        error_after: an error event after so many events of the stream.
        error_once: the error event waits for it; else it may arrive in one piece with what came before.
        cut_after: close the socket after so many events, without an end.
        raw: these bytes as the body of a 200 reply, whatever was asked.
    """

    pieces: tuple[str, ...] = ("Hello", " there", "!")
    thinking: str = ""
    tools: tuple[Call, ...] = ()
    stop: str | None = None
    cached: int = 0
    status: int = 200
    error: tuple[str, str] = ("api_error", "scripted failure")
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    event_delay_s: float = 0.0
    error_after: int | None = None
    error_once: threading.Event | None = None
    cut_after: int | None = None
    raw: bytes | None = None

    @property
    def output_tokens(self) -> int:
        thinking = len(self.thinking.split())
        return max(len(self.pieces) + thinking + 5 * len(self.tools), 1)


@dataclass
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    raw: bytes
    body: dict[str, Any]
    client_left: threading.Event = field(default_factory=threading.Event)

    @property
    def input_tokens(self) -> int:
        """Never more than its bytes, as with any real tokenizer."""
        return len(self.raw) // 6 + 1


@dataclass(frozen=True)
class Charge:
    """What one call cost, whether or not the client heard of it."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


class RefusedError(Exception):
    """The real API would answer with this status and message."""

    def __init__(self, message: str, status: int = 400, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class _ClientLeftError(Exception):
    pass


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # hundreds of calls at once are a test's too


class WireServer:
    """A running server; subclasses speak one provider's format."""

    base = ""
    stream_type = "text/event-stream; charset=utf-8"

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.refused: list[str] = []
        self.ledger: list[Charge] = []
        self.charged = 0
        self.answer: Callable[[Seen], Answer] = lambda seen: Answer()
        self.stopping = threading.Event()
        self._script: deque[Answer] = deque()
        self._lock = threading.Lock()
        self._server = _Listener(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{self.base}"

    def script(self, *answers: Answer) -> None:
        self._script.extend(answers)

    def forget(self) -> None:
        """What an earlier test left unasked, or did wrong."""
        with self._lock:
            self._script.clear()
            self.refused.clear()

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # what a subclass says

    def check(self, seen: Seen) -> None:
        """Raise RefusedError for what the real API would refuse."""
        raise NotImplementedError

    def streams(self, seen: Seen) -> bool:
        raise NotImplementedError

    def whole(self, seen: Seen, answer: Answer) -> dict[str, Any]:
        raise NotImplementedError

    def events(self, seen: Seen, answer: Answer) -> Iterator[tuple[bytes, int]]:
        """The bytes of each event, and how many output tokens were generated for it."""
        raise NotImplementedError

    def cost(self, seen: Seen, answer: Answer) -> Charge:
        """What a whole answer is charged."""
        return Charge(seen.input_tokens, answer.output_tokens, answer.cached)

    def error(self, status: int, kind: str, message: str) -> dict[str, Any]:
        raise NotImplementedError

    def error_event(self, kind: str, message: str) -> bytes:
        raise NotImplementedError

    def error_headers(self, kind: str) -> dict[str, str]:
        """Headers beside the body of an error."""
        return {}

    # used by the handler

    def take(self, seen: Seen) -> Answer:
        with self._lock:
            self.requests.append(seen)
            scripted = self._script.popleft() if self._script else None
        answer = scripted or self.answer(seen)
        with self._lock:
            self.charged += answer.status == 200 and answer.raw is None
        return answer

    @property
    def settled(self) -> bool:
        """Whether every call that costs is in the ledger; a stream is charged after its last byte went out."""
        return len(self.ledger) == self.charged

    def charge(self, charge: Charge) -> None:
        with self._lock:
            self.ledger.append(charge)

    def refuse(self, message: str) -> None:
        with self._lock:
            self.refused.append(message)


Server = TypeVar("Server", bound=WireServer)


@contextmanager
def running(kind: type[Server]) -> Iterator[Server]:
    server = kind()
    try:
        yield server
    finally:
        server.close()


def _handler(server: WireServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes, which would cost 40 ms a reply

        def log_message(self, format: str, *args: Any) -> None:
            """Tests read `requests`; nothing goes to stderr."""

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {key.lower(): value for key, value in self.headers.items()}
            try:
                seen = Seen(self.path, headers, raw, json.loads(raw))
            except ValueError:
                self._refuse(RefusedError("the request body is not valid JSON"))
                return
            try:
                server.check(seen)
            except RefusedError as refused:
                server.refuse(str(refused))
                self._refuse(refused)
                return
            try:
                self._answer(seen, server.take(seen))
            except (_ClientLeftError, BrokenPipeError, ConnectionResetError):
                seen.client_left.set()
                self.close_connection = True

        def _refuse(self, refused: RefusedError) -> None:
            told = server.error(refused.status, refused.kind, str(refused))
            self._whole(refused.status, told, server.error_headers(refused.kind))

        def _answer(self, seen: Seen, answer: Answer) -> None:
            self._wait(answer.delay_s)
            if answer.status != 200:
                headers = {**server.error_headers(answer.error[0]), **answer.headers}
                self._whole(answer.status, server.error(answer.status, *answer.error), headers)
            elif answer.raw is not None:
                self._bytes(200, answer.raw, answer.headers)
            elif server.streams(seen):
                self._stream(seen, answer)
            else:
                server.charge(server.cost(seen, answer))
                self._whole(200, server.whole(seen, answer), answer.headers)

        def _whole(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
            self._bytes(status, json.dumps(body).encode(), headers)

        def _bytes(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self, seen: Seen, answer: Answer) -> None:
            self.send_response(200)
            self.send_header("content-type", server.stream_type)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            generated, whole = 0, True
            try:
                for number, (data, tokens) in enumerate(server.events(seen, answer)):
                    if number == answer.cut_after:
                        whole, self.close_connection = False, True
                        break
                    if number == answer.error_after:
                        if answer.error_once is not None:
                            answer.error_once.wait(60)
                        self._chunk(server.error_event(*answer.error))
                        break
                    self._wait(answer.event_delay_s)
                    generated += tokens
                    self._chunk(data)
            finally:  # before the last byte, so that whoever has the whole reply finds its charge
                server.charge(Charge(seen.input_tokens, generated, answer.cached))
            if whole:
                self._chunk(b"")

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def _wait(self, seconds: float) -> None:
            """Be slow, but notice at once when the client hangs up."""
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0 and not server.stopping.is_set():
                readable, _, _ = select.select([self.connection], [], [], min(left, 0.05))
                if readable and not self.connection.recv(1024):
                    raise _ClientLeftError

    return Handler


def need(condition: object, message: str, status: int = 400, kind: str = "invalid_request_error") -> None:
    if not condition:
        raise RefusedError(message, status, kind)


def only(found: dict[str, Any], allowed: str, where: str = "") -> None:
    """Refuse fields that the API does not know."""
    for name in found:
        need(name in allowed.split(), f"{where}{name}: Extra inputs are not permitted")
