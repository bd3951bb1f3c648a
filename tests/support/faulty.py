"""An upstream in OpenAI's format that can fail in every way a wire can: what it answers is scripted, byte by byte.

Each request takes the next step of the script, then `answer`. It keeps a ledger of the tokens it charged.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.ports import free_port

INPUT_TOKENS = 7
PATIENCE_S = 60.0


@dataclass
class Asked:
    """One request as it arrived. `left` is set once its client hung up before the reply was whole.

    `heard` is for the test to set: its caller has read the beginning of the reply.
    """

    path: str
    headers: dict[str, str]
    raw: bytes
    left: threading.Event = field(default_factory=threading.Event)
    heard: threading.Event = field(default_factory=threading.Event)
    left_at: float = 0.0
    sent: int = 0

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.raw))


Step = Callable[["Wire"], None]


@dataclass
class Wire:
    """The connection on which a step answers."""

    upstream: Scripted
    sock: socket.socket
    asked: Asked

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def wait(self, seconds: float) -> None:
        """Be silent, but notice at once when the client hangs up."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self.upstream.stopping.is_set():
            readable, _, _ = select.select([self.sock], [], [], min(left, 0.02))
            if readable and not self.sock.recv(65536):
                self.asked.left_at = time.monotonic()
                self.asked.left.set()
                raise ConnectionResetError

    def charge(self, output_tokens: int) -> None:
        with self.upstream.lock:
            self.upstream.charged_output += output_tokens
            self.upstream.charged_input += INPUT_TOKENS


class Scripted:
    """The running server. `failed_handshakes` counts callers who did not like its certificate."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.failed_handshakes = 0
        self._tls = tls
        self.asked: list[Asked] = []
        self.answer: Step = whole()
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.charged_input = self.charged_output = 0
        self._steps: deque[Step] = deque()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def script(self, *steps: Step) -> None:
        self._steps.extend(steps)

    def reset(self, answer: Step | None = None) -> None:
        """Forget what was asked and scripted."""
        self.asked.clear()
        self._steps.clear()
        self.answer = answer or whole()

    def close(self) -> None:
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError), self._proven(sock) as proven:
            asked = _read(proven)
            if asked is None:
                return
            with self.lock:
                self.asked.append(asked)
                step = self._steps.popleft() if self._steps else self.answer
            step(Wire(self, proven, asked))

    def _proven(self, sock: socket.socket) -> socket.socket:
        if self._tls is None:
            return sock
        try:
            return self._tls.wrap_socket(sock, server_side=True)
        except OSError:
            self.failed_handshakes += 1
            sock.close()
            raise


@contextmanager
def scripted_upstream(tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    upstream = Scripted(tls)
    try:
        yield upstream
    finally:
        upstream.close()


def refused_url() -> str:
    """The URL of a port that nobody listens on."""
    return f"http://127.0.0.1:{free_port()}/v1"


# --- steps -----------------------------------------------------------------------------------------------------------


def whole(text: str = "Hello", *, model: str = "test-model", tokens: int = 5, delay_s: float = 0.0) -> Step:
    """A good reply; a stream where one is asked for."""

    def step(wire: Wire) -> None:
        wire.wait(delay_s)
        if wire.asked.body.get("stream"):
            stream(tuple(text), model=model)(wire)
            return
        wire.charge(tokens)
        message = {"role": "assistant", "content": text}
        value = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": INPUT_TOKENS, "completion_tokens": tokens},
        }
        _send_whole(wire, 200, json.dumps(value).encode())

    return step


def stream(
    pieces: tuple[str, ...] = ("Hel", "lo"),
    *,
    model: str = "test-model",
    cut_after: int | None = None,
    pause_s: float = 0.0,
    error_after: int | None = None,
    held: bool = False,
) -> Step:
    """A good stream, or one that is cut or breaks off with an error after so many pieces.

    `held`: after its first piece it waits until the test says that it was heard.
    """

    def step(wire: Wire) -> None:
        wire.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: close\r\n\r\n"
        )
        for number, piece in enumerate(pieces):
            if number == cut_after:
                wire.charge(number)
                return
            if number == error_after:
                wire.charge(number)
                _chunk(wire, b'data: {"error": {"message": "it broke", "type": "server_error"}}\n\n')
                _chunk(wire, b"")
                return
            wire.asked.sent += 1
            _event(wire, model, {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            wire.wait(pause_s)
            if held:
                wire.asked.heard.wait(PATIENCE_S)
        wire.charge(len(pieces))
        _event(wire, model, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (wire.asked.body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": len(pieces)}
            _event(wire, model, {"choices": [], "usage": usage})
        _chunk(wire, b"data: [DONE]\n\n")
        _chunk(wire, b"")

    return step


def status(code: int, *headers: tuple[str, str], message: str = "scripted failure") -> Step:
    return lambda wire: _send_whole(wire, code, json.dumps({"error": {"message": message}}).encode(), *headers)


def text(body: bytes) -> Step:
    """A 200 with any body."""
    return lambda wire: _send_whole(wire, 200, body)


def wrong_length(body: bytes = b'{"id": "x"') -> Step:
    """Promises more than it sends."""
    return lambda wire: wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + body)


def not_http() -> Step:
    return lambda wire: wire.send(b"I am no HTTP server\r\n\r\n")


def hang_up() -> Step:
    """Reads the request, then closes without a byte."""
    return lambda wire: None


def silent() -> Step:
    return lambda wire: wire.wait(PATIENCE_S)


def slow_body() -> Step:
    """The head, then nothing."""

    def step(wire: Wire) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        wire.wait(PATIENCE_S)

    return step


def _send_whole(wire: Wire, code: int, body: bytes, *headers: tuple[str, str]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    wire.send(
        f"HTTP/1.1 {code} Status\r\nContent-Type: application/json\r\n{lines}"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def _event(wire: Wire, model: str, value: dict[str, Any]) -> None:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, **value}
    _chunk(wire, b"data: " + json.dumps(chunk).encode() + b"\n\n")


def _chunk(wire: Wire, data: bytes) -> None:
    wire.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _read(sock: socket.socket) -> Asked | None:
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    while len(body) < int(headers.get("content-length", "0")):
        part = sock.recv(65536)
        if not part:
            return None
        body += part
    return Asked(lines[0].split(" ")[1], headers, body)
