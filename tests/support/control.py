"""A control process' application under test: real state, lake and sockets, in a thread of the test's process."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from tests.support.callers import caller

from llmops.core.ids import new_id
from llmops.core.lake import Lake
from llmops.gateway.config import GatewayConfig
from llmops.gateway.control.app import build_app
from llmops.gateway.control.office import Office, open_office
from llmops.gateway.engine.metrics import Metrics
from llmops.gateway.listen import address, listen
from llmops.gateway.published import METRICS, publish

GUARD = {"x-llmops-control": "1"}


def config_of(folder: Path, **values: Any) -> GatewayConfig:
    """Two providers, two routes, two teams; `values` are laid over it."""
    return GatewayConfig.model_validate(
        {
            "state": {"dir": folder / "state"},
            "providers": {"near": {"url": "http://127.0.0.1:9/v1"}, "far": {"kind": "anthropic", "region": "eu"}},
            "routes": [
                {
                    "name": "fast",
                    "targets": [
                        {"provider": "near", "model": "small"},
                        {"provider": "far", "model": "claude"},
                    ],
                    "fallbacks": ["deep"],
                },
                {"name": "deep", "targets": [{"provider": "far", "model": "claude-opus-5-5"}]},
            ],
            "teams": {"search": {"budgets": [{"usd": 10, "period": "total"}]}, "support": {}},
            "unpriced": "free",
            **values,
        }
    )


@dataclass
class Control:
    """One control application that answers."""

    url: str
    office: Office

    @property
    def config(self) -> GatewayConfig:
        return self.office.config()

    def look(self) -> None:
        """Have the watch look now, in a thread: Playwright's event loop may be this one's."""
        thread = threading.Thread(target=self.office.watch.look)
        thread.start()
        thread.join(60)

    def client(self, **settings: Any) -> httpx.Client:
        return caller(self.url, **settings)


@contextmanager
def running_control(folder: Path, **values: Any) -> Iterator[Control]:
    """Until the block ends. It looks at the meters only when `look` is called."""
    config = config_of(folder, **values)
    publish(config)
    with (
        open_office(config.folder, sample_s=3600) as office,
        listen(config.control.host, 0, setting="control.port") as listener,
    ):
        settings = uvicorn.Config(build_app(office), log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield Control(address(listener), office)
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def write_metrics(folder: Path, worker: int, *, pid: int = 0, requests: int = 1, status: str = "2xx") -> Metrics:
    """What a worker would have written after so many requests of the team `search` to the first target of `fast`."""
    metrics = Metrics(worker)
    tally = metrics.tally("fast", "near/small", status, "search")
    for _ in range(requests):
        tally.calls += 1
        tally.input_tokens += 100
        tally.output_tokens += 10
        tally.nano_usd += 1_500_000
        tally.time(0.2, 0.04)
    dump(metrics, folder, pid or os.getpid())
    return metrics


def dump(metrics: Metrics, folder: Path, pid: int, gauges: Sequence[Any] = (), *, fresh_s: float = 0.0) -> None:
    """As a worker writes them: whole. Gauges are believed for a few seconds, and `fresh_s` longer."""
    value = json.loads(metrics.as_json(list(gauges)))
    value |= {"pid": pid, "time": value["time"] + fresh_s}
    path = folder / METRICS / f"{metrics.worker}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(value))
    path.with_suffix(".tmp").replace(path)


def row(**values: Any) -> dict[str, Any]:
    """A row of the inference table: a good call of a moment ago."""
    at = values.pop("at", datetime.now(UTC) - timedelta(minutes=1))
    return {
        "invocation_id": new_id(),
        "layer": "gateway",
        "request_id": new_id(),
        "request_time": at,
        "request_date": at.date(),
        "endpoint": "fast",
        "assignment_p": 1.0,
        "status_code": 200,
        "latency_ms": 200.0,
        "ttfb_ms": 50.0,
        "input_tokens": 100,
        "output_tokens": 10,
        "cost_usd": "0.001000001",
        "requester": "key:one",
        "model_version": "small-2026",
        **values,
        "tags": {"target": "near/small", "team": "search", **values.get("tags", {})},
    }


def fill(config: GatewayConfig, rows: Sequence[dict[str, Any]]) -> None:
    Lake(config.state).append(config.inference_log, rows)


class Receiver:
    """An HTTP server that keeps what is posted to it, and answers with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Tests are quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join(60)
        receiver.server.server_close()
