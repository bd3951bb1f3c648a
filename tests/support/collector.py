"""An OpenTelemetry collector for tests: takes traces as OTLP over HTTP, in protobuf, over a real socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Seen:
    """One span as it arrived; ids in hexadecimal, `parent` empty for a root."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    failed: bool
    attributes: dict[str, Any]


class Collector:
    """The running server. `status` is what it answers, once `answering` is set, as it is at first."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.status = 200
        self.answering = threading.Event()
        self.answering.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def wait(self, name: str, seconds: float = 60.0) -> list[Seen]:
        """All spans, once one of that name has come."""
        deadline = time.monotonic() + seconds
        while not any(span.name == name for span in self.spans):
            assert time.monotonic() < deadline, f"no span {name} among {[span.name for span in self.spans]}"
            time.sleep(0.02)
        return list(self.spans)

    def close(self) -> None:
        self.answering.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def running_collector() -> Iterator[Collector]:
    collector = Collector()
    try:
        yield collector
    finally:
        collector.close()


def tree(spans: list[Seen]) -> dict[str, Any]:
    """The spans as nested dictionaries by name; every one must have a place in it."""
    by_id = {span.id: span for span in spans}

    def beneath(parent: str) -> dict[str, Any]:
        return {span.name: beneath(span.id) for span in spans if span.parent == parent}

    tops = {span.parent for span in spans if span.parent not in by_id}
    assert len(tops) == 1, f"{len(tops)} trees"
    return beneath(tops.pop())


def _handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.paths.append(self.path)
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
            if collector.status == 200:
                message = ExportTraceServiceRequest()
                message.ParseFromString(body)
                collector.spans += [
                    _seen(span)
                    for resource in message.resource_spans
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
            collector.answering.wait()
            with suppress(BrokenPipeError, ConnectionResetError):  # who sent it may have lost patience
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _seen(span: Any) -> Seen:
    attributes = {pair.key: _value(pair.value) for pair in span.attributes}
    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
    return Seen(span.name, *ids, span.kind, span.status.code == 2, attributes)


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
