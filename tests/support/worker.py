"""One worker of the data plane in a process of its own, asked over its socket; its rows are read from the spool."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml
from tests.support.callers import caller

from llmops.core.pending import pending_rows
from llmops.core.segments import open_segments
from llmops.gateway.calls import KeyPolicy
from llmops.gateway.config import GatewayConfig
from llmops.gateway.keyring import SNAPSHOT, write_snapshot
from llmops.gateway.published import publish

PATIENCE_S = 60.0
PRICE = {"input": "1", "output": "2"}  # dollars for a million tokens: 1,000 and 2,000 nano-dollars a token
Value = TypeVar("Value")


def target(provider: str = "first", **more: Any) -> dict[str, Any]:
    return {"provider": provider, "model": "upstream-model", "price": PRICE, **more}


def route(name: str = "chat", *targets: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "targets": list(targets) or [target()], **more}


def user_says(text: str = "Hello there", **more: Any) -> dict[str, Any]:
    return {"model": "chat", "messages": [{"role": "user", "content": text}], **more}


class RunningWorker:
    """The worker, and what it left behind."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.config = {"state": {"dir": str(folder / "state")}, "port": 0, "shutdown_s": 5, **config}
        self.policies: list[KeyPolicy] = []
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    @property
    def checked(self) -> GatewayConfig:
        return GatewayConfig.model_validate(self.config)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, **environment: str) -> None:
        file = self.folder / "gateway.yaml"
        file.write_text(yaml.safe_dump(self.config))
        with (self.folder / "worker.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "llmops.gateway.worker", str(file)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **environment},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("ready "), self.log
        self.url = f"http://127.0.0.1:{line.split()[1]}"

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        self.ended()

    def ended(self) -> None:
        """Wait for a worker that was told to stop."""
        assert self._process is not None
        assert self._process.wait(PATIENCE_S) == 0, self.log
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def abandon(self) -> None:
        """Wait for a worker that never got ready."""
        assert self._process is not None
        assert self._process.wait(PATIENCE_S) != 0
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def reload(self, **changes: Any) -> None:
        """Publish a changed configuration and tell the worker."""
        self.config = {**self.config, **changes}
        publish(self.checked)
        os.kill(self.pid, signal.SIGHUP)

    def key(self, *, publish_now: bool = True, **values: Any) -> str:
        """A new virtual key; gives its token once the worker knows it."""
        key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        policy = {
            "key_id": key_id,
            "secret_sha256": hashlib.sha256(secret.encode()).hexdigest(),
            "name": "test",
            "groups": frozenset(),
            "scopes": frozenset({"gateway"}),
            "expires_at": None,
            "team": None,
            "routes": frozenset(),
            **values,
        }
        self.policies.append(KeyPolicy(**policy))
        token = f"lk_{key_id}_{secret}"
        if publish_now:
            self.publish_keys()
        if publish_now and self._process is not None:
            with self.client(token) as client:
                self.until(lambda: client.get("/v1/models").status_code != 401)
        return token

    def publish_keys(self) -> None:
        path = self.checked.folder / SNAPSHOT
        path.parent.mkdir(parents=True, exist_ok=True)
        write_snapshot(path, self.policies)

    def client(self, token: str | None = None, **headers: str) -> httpx.Client:
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        return caller(self.url, headers=headers)

    def chat(self, body: dict[str, Any] | None = None, *, token: str | None = None, **headers: str) -> httpx.Response:
        with self.client(token, **headers) as client:
            return client.post("/v1/chat/completions", json=body or user_says())

    @property
    def answers(self) -> bool:
        """Whether it takes connections, as it does until it is told to stop."""
        try:
            with self.client() as client:
                client.get("/healthz")
        except httpx.TransportError:
            return False
        return True

    def rows(self, count: int | None = None, layer: str | None = "gateway") -> list[dict[str, Any]]:
        """The rows in the spool, oldest first; waits until there are so many of the layer."""

        def found() -> list[dict[str, Any]]:
            with open_segments(self.checked.state.spool) as segments:
                rows = pending_rows(self.checked.inference_log, dict.fromkeys(segments, 0))
                return [row for row in rows if layer in (None, row["layer"])]

        if count is not None:
            self.until(lambda: len(found()) >= count)
            assert len(found()) == count
        return found()

    def row_of(self, reply: httpx.Response) -> dict[str, Any]:
        """The row of the call that got this reply."""
        wanted = reply.headers["x-request-id"]
        return self.until(lambda: next((row for row in self.rows() if row["request_id"] == wanted), {}))

    def metrics(self) -> dict[str, Any]:
        return dict(json.loads((self.checked.folder / "metrics" / "0.json").read_text()))

    def counter(self, name: str, **labels: str) -> int:
        """The sum of a counter's series with these labels."""
        return sum(
            value
            for found, series, value in self.metrics()["counters"]
            if found == name and labels.items() <= series.items()
        )

    @property
    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    @staticmethod
    def until(condition: Callable[[], Value]) -> Value:
        """Wait for something to become true, for as long as a slow machine may need."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            assert time.monotonic() < deadline, "it never became true"
            time.sleep(0.02)
        return value


@contextmanager
def running_worker(folder: Path, **config: Any) -> Iterator[RunningWorker]:
    worker = RunningWorker(folder, config)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
