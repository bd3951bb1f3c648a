"""Servers of vectors for a test, each a process of its own on a free port of loopback, killed and restarted at will."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from tests.support.ports import free_port

from llmops.rag.config import StoreConfig


class EngineProcess:
    """The server's data outlives its process, as it does where people run one."""

    engine: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def runs(self) -> bool:
        return self._process is not None

    def config(self, **more: object) -> StoreConfig:
        about = {"engine": self.engine, "url": self.url, "timeout_s": 5, "patience_s": 0, **more}
        return StoreConfig.model_validate(about)

    def start(self) -> None:
        log_path = self.folder.with_suffix(".log")
        with log_path.open("ab") as log:
            process = subprocess.Popen(self._command(), stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not self._answers():
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        self._process = process

    def kill(self) -> None:
        """End the process as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(60)
        self._process = None

    def freeze(self) -> None:
        """Stop answering without closing a connection."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def collections(self) -> set[str]:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


class ChromaProcess(EngineProcess):
    engine = "chroma"

    def collections(self) -> set[str]:
        found = httpx.get(f"{self.url}/api/v2/tenants/default_tenant/databases/default_database/collections?limit=1000")
        return {collection["name"] for collection in found.json()}

    def _command(self) -> list[str]:
        binary = str(Path(sys.executable).with_name("chroma"))
        return [binary, "run", "--path", str(self.folder), "--host", "127.0.0.1", "--port", str(self.port)]

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/api/v2/heartbeat", timeout=60).is_success
        except httpx.TransportError:
            return False


class MilvusProcess(EngineProcess):
    engine = "milvus"

    def collections(self) -> set[str]:
        from pymilvus import MilvusClient

        client = MilvusClient(self.url, timeout=60)
        try:
            return set(client.list_collections())
        finally:
            client.close()

    def _command(self) -> list[str]:
        pytest.importorskip("milvus_lite", reason="pip install milvus-lite")
        binary = str(Path(sys.executable).with_name("milvus-lite"))
        folder = str(self.folder)
        return [binary, "server", "--data-dir", folder, "--host", "127.0.0.1", "--port", str(self.port)]

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def guarded(server: EngineProcess, certificate: Path, token: str) -> Iterator[str]:
    """Give the URL of a door before a Chroma server, as people put one there: TLS, and nobody in without the token."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, answer = 401, b"{}"
            if self.headers.get("authorization") == f"Bearer {token}" and self.headers.get("x-team") == "blue":
                headers = {"content-type": "application/json"}
                found = httpx.request(self.command, server.url + self.path, content=body, headers=headers, timeout=60)
                status, answer = found.status_code, found.content
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_DELETE = pass_on

        def log_message(self, *_: object) -> None:
            return None

    door = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    door.socket = context.wrap_socket(door.socket, server_side=True)
    thread = threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"https://localhost:{door.server_port}"
    finally:
        door.shutdown()
        thread.join()
        door.server_close()


PROCESSES = {"chroma": ChromaProcess, "milvus": MilvusProcess}


@contextmanager
def engine_server(engine: str, folder: Path) -> Iterator[EngineProcess]:
    server = PROCESSES[engine](folder / engine)
    server.start()
    try:
        yield server
    finally:
        if server.runs:
            server.kill()
