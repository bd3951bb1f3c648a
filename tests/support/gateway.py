"""A gateway under test, in processes of its own: started from a configuration file, asked over the socket."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.support.callers import caller
from tests.support.waiting import eventually  # noqa: F401 - for those who wait for what is run here

from llmops.core.state import StateConfig
from llmops.gateway.published import SupervisorStatus, read_status

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("gateway_process.py")


def write_config(path: Path, **values: Any) -> None:
    """A configuration on free ports with one route; `values` are laid over it. Replaced whole, as editors do."""
    config = {
        "job": "gateway",
        "state": {"dir": str(path.parent / "state")},
        "port": 0,
        "control": {"port": 0},
        "shutdown_s": 5,
        "providers": {"local": {"url": "http://127.0.0.1:9/v1"}},
        "routes": [{"name": "first", "targets": [{"provider": "local", "model": "m"}]}],
        "unpriced": "free",
        **values,
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(yaml.safe_dump(config))
    temporary.replace(path)


def route(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "targets": [{"provider": "local", "model": "m"}], **more}


class Gateway:
    """One running gateway."""

    def __init__(self, file: Path, process: subprocess.Popen[str]) -> None:
        self.file = file
        self.process = process
        self.url = ""
        self.control = ""
        self.said: list[str] = []

    @property
    def state(self) -> StateConfig:
        return StateConfig(dir=self.file.parent / "state")

    @property
    def folder(self) -> Path:
        return self.state.root / "gateway"

    def client(self, **settings: Any) -> httpx.Client:
        return caller(self.url, **settings)

    def controller(self, **settings: Any) -> httpx.Client:
        return caller(self.control, **settings)

    def controlled(self) -> None:
        """Wait until the control process answers: ended before that, it leaves its duties to the next one."""
        with self.controller() as control:
            assert control.get("/healthz").status_code == 200

    def status(self) -> SupervisorStatus:
        found = read_status(self.folder)
        assert found is not None
        return found

    def pid(self, name: str) -> int:
        return next(process.pid for process in self.status().processes if process.name == name)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def process(file: Path, *arguments: str) -> Iterator[Gateway]:
    """The program on a configuration file, whether or not it comes to answer."""
    started = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(file), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    gateway = Gateway(file, started)
    reader = threading.Thread(target=lambda: [gateway.said.append(line) for line in started.stderr or ()], daemon=True)
    reader.start()
    try:
        yield gateway
    finally:
        if started.poll() is None:
            started.terminate()
            try:
                started.wait(60)
            except subprocess.TimeoutExpired:
                started.kill()
        started.wait(60)
        reader.join(60)
        for stream in (started.stdout, started.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def running(file: Path, *arguments: str) -> Iterator[Gateway]:
    """A gateway that answers."""
    with process(file, *arguments) as gateway:
        lines: queue.Queue[str] = queue.Queue()
        assert gateway.process.stdout is not None
        stdout = gateway.process.stdout
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        line = lines.get(timeout=120)
        assert line, "".join(gateway.said)
        gateway.url, gateway.control = json.loads(line)
        yield gateway
