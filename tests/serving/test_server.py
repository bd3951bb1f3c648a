"""The process around the application: addresses, ports, signals, and the page's files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import httpx
import orjson
import pytest
from tests.support.serving import Running

from llmops.core.errors import ConfigError, ConflictError
from llmops.serving.config import ServeConfig
from llmops.serving.server import address, listening, serve

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
from pathlib import Path
from tests.support.chain import Shelf, SmallChain
from tests.support.serving import KEYS, SpooledTables
from llmops.core.state import StateConfig
from llmops.serving.app import Backing
from llmops.serving.config import ServeConfig
from llmops.serving.endpoint import Endpoints
from llmops.serving.server import address, draining, listening, server_for

config = ServeConfig(state=StateConfig(dir=Path(sys.argv[1])), port=0)
shelf = Shelf({1: SmallChain})
tables = SpooledTables(config.state.spool)
with listening(config.host, config.port) as listener, draining(config.state), tables.spool:
    with Endpoints(config.endpoints, shelf, poll_s=1) as endpoints:
        told = lambda: print(address(listener), flush=True)
        server_for(config, Backing(shelf, tables, KEYS), endpoints, told).run(sockets=[listener])
"""


def test_a_taken_port_is_told_with_a_way_out() -> None:
    with listening("127.0.0.1", 0) as holder:
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ConflictError, match=f"port {port} is in use") as refused, listening("127.0.0.1", port):
            pass
    assert f"--port {port + 1}" in str(refused.value.hint)


def test_a_foreign_address_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot be listened on"), listening("192.0.2.1", 0):
        pass


def test_an_open_door_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="open the chat to everybody"):
        serve(ServeConfig(host="0.0.0.0", state={"dir": tmp_path / "state"}))  # type: ignore[arg-type]
    assert not (tmp_path / "state").exists()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_addresses_are_urls() -> None:
    with listening("127.0.0.1", 0) as listener:
        assert address(listener) == f"http://localhost:{listener.getsockname()[1]}"
    with listening("::1", 0) as listener:
        assert address(listener).startswith("http://[::1]:")


def test_ctrl_c_stops_all_and_leaves_every_row_in_the_lake(tmp_path: Path) -> None:
    from llmops.core.lake import Lake
    from llmops.core.state import StateConfig

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        body = {"model": "chat", "messages": [{"role": "user", "content": "What happens to deleted documents?"}]}
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False, timeout=60)
        assert reply.status_code == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "KeyboardInterrupt" in errors  # the command line turns it into exit code 130
    state = StateConfig(dir=tmp_path)
    rows = Lake(state).rows("dev.serving.inference_log", include_pending=False)
    assert [row["request_id"] for row in rows] == [reply.headers["x-request-id"]]


def test_the_page_comes_with_its_digest(server: Running) -> None:
    with server.client() as client:
        page = client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "<script>" not in page.text
        assert "style=" not in page.text
        again = client.get("/", headers={"if-none-match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get("/app.js").headers["content-type"].startswith("text/javascript")
        for path in ("/vendor/../../config.py", "/%2e%2e/config.py", "/vendor", "/app.py"):
            assert client.get(path).status_code == 404


def test_vendored_files_are_what_their_record_says() -> None:
    vendor = files("llmops.serving") / "web" / "vendor"
    record = orjson.loads((vendor / "vendor.json").read_bytes())
    scripts = {entry.name for entry in vendor.iterdir() if entry.name.endswith(("js", "mjs"))}
    assert {entry["file"] for entry in record} == scripts
    for entry in record:
        assert sha256((vendor / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
        assert entry["version"] in (vendor / "README.md").read_text()
        assert (vendor / entry["licence_file"]).read_bytes()
