"""A language model server for tests: OpenAI's chat-completions format over a real socket, with faults on demand.

It answers what it is told to, in order, then what `answer` gives; it records every request and whether its client left.
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
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One scripted reply.

    Args:
        pieces: the text, as it is split over chunks.
        delay_s: silence before the headers.
        piece_delay_s: silence before each piece.
        allowed: a permit a piece: the next one waits until the test releases it.
        cut_after: close the socket after so many pieces, without an end.
        status: other than 200: `error` is sent as its message.
        raw: these bytes instead of a proper event stream.
        stream: False sends one JSON object, as a server does that ignores `stream`.
        end: False leaves out both the finish reason and `[DONE]`, though the reply ends properly for HTTP.
    """

    pieces: tuple[str, ...] = ("Hello",)
    delay_s: float = 0.0
    piece_delay_s: float = 0.0
    allowed: threading.Semaphore | None = None
    cut_after: int | None = None
    status: int = 200
    error: str = "scripted failure"
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    stream: bool = True
    finish_reason: str = "stop"
    usage: bool = True
    end: bool = True


@dataclass
class Seen:
    """One request as it arrived; `client_left` is set once its client hung up before the reply was whole."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    client_left: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def messages(self) -> list[dict[str, str]]:
        return list(self.body["messages"])


class Upstream:
    """The running server. `script(...)` queues replies; `answer` decides once the queue is empty."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.answer: Callable[[Seen], Reply] = lambda seen: Reply()
        self._script: deque[Reply] = deque()
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def script(self, *replies: Reply) -> None:
        self._script.extend(replies)

    def next_reply(self, seen: Seen) -> Reply:
        with self._lock:
            self.requests.append(seen)
            scripted = self._script.popleft() if self._script else None
        return scripted or self.answer(seen)

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def running_upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    try:
        yield upstream
    finally:
        upstream.close()


class _ClientLeftError(Exception):
    pass


def _handler(upstream: Upstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Tests read `requests`; nothing goes to stderr."""

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            body = json.loads(self.rfile.read(length))
            seen = Seen(self.path, {key.lower(): value for key, value in self.headers.items()}, body)
            reply = upstream.next_reply(seen)
            self.close_connection = True
            try:
                self._wait(reply.delay_s)
                self._send(seen, reply)
                seen.finished.set()
            except (_ClientLeftError, BrokenPipeError, ConnectionResetError):
                seen.client_left.set()

        def _send(self, seen: Seen, reply: Reply) -> None:
            if reply.status != 200:
                body = json.dumps({"error": {"message": reply.error, "type": "scripted"}}).encode()
                self._whole(reply.status, body, reply.headers)
            elif not reply.stream:
                self._whole(200, json.dumps(_whole_reply(seen, reply)).encode(), reply.headers)
            else:
                self._stream(seen, reply)

        def _whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def _stream(self, seen: Seen, reply: Reply) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            if reply.raw is not None:
                self._chunk(reply.raw)
                self._chunk(b"")
                return
            for number, piece in enumerate(reply.pieces):
                if number == reply.cut_after:
                    self.wfile.flush()
                    return  # no closing chunk: the client sees a cut
                self._wait(reply.piece_delay_s)
                while reply.allowed and not reply.allowed.acquire(blocking=False) and not upstream.stopping.is_set():
                    self._wait(0.02)
                self._event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            if reply.end:
                self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": reply.finish_reason}]})
                if reply.usage and seen.body.get("stream_options", {}).get("include_usage"):
                    self._event({"choices": [], "usage": _usage(seen, reply)})
                self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")

        def _event(self, value: dict[str, Any]) -> None:
            chunk = {"id": "chatcmpl-test", "object": "chat.completion.chunk", "model": "test", **value}
            self._chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def _wait(self, seconds: float) -> None:
            """Be slow, but notice at once when the client hangs up."""
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0 and not upstream.stopping.is_set():
                readable, _, _ = select.select([self.connection], [], [], min(left, 0.05))
                if readable and not self.connection.recv(1024):
                    raise _ClientLeftError

    return Handler


def _usage(seen: Seen, reply: Reply) -> dict[str, int]:
    prompt = sum(len(message["content"].split()) for message in seen.messages)
    return {"prompt_tokens": prompt, "completion_tokens": len(reply.pieces)}


def _whole_reply(seen: Seen, reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(reply.pieces)}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
        "usage": _usage(seen, reply),
    }
