"""A real server for tests: uvicorn on a free port, rows in a real spool, versions from a shelf."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
from tests.support.chain import Shelf, SmallChain

from llmops.core.errors import DeniedError, UnauthenticatedError
from llmops.core.frames import Frame, scan
from llmops.core.identity import Principal
from llmops.core.segments import open_segments
from llmops.core.spool import Spool
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.rag.curation import Desk
from llmops.serving.app import Backing
from llmops.serving.config import ServeConfig
from llmops.serving.endpoint import Endpoints
from llmops.serving.registry_pages.app import Rooms
from llmops.serving.server import address, listening, server_for


class SpooledTables:
    """Writes through a real spool and reads what lies in it; no lake, no drainer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = Spool(folder)

    def append(self, table: str, row: dict[str, Any]) -> None:
        assert self.spool.append(table, row)

    async def keep(self, table: str, row: dict[str, Any]) -> None:
        await self.spool.append_durable(table, row)

    def find(self, table: str, column: str, value: str) -> list[dict[str, Any]]:
        return [row for row in self.rows(table) if row[column] == value]

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Every row of the table, in the order of writing."""
        with open_segments(self.folder) as segments:
            data = b"".join(segment.read(0) for segment in segments)
        frames = [frame for frame in scan(data) if isinstance(frame, Frame)]
        return [orjson.loads(frame.body) for frame in frames if frame.table == table]


class FewKeys:
    """A key table of tokens known beforehand: each with its principal and scopes."""

    def __init__(self, known: dict[str, tuple[Principal, set[str]]]) -> None:
        self._known = known

    def verify(self, token: str, scope: str) -> Principal:
        if token not in self._known:
            raise UnauthenticatedError("the key is not valid")
        principal, scopes = self._known[token]
        if scope not in scopes:
            raise DeniedError(f"the key may not be used for {scope}")
        return principal


KEYS = FewKeys(
    {
        "lk_one": (Principal("key:one", "key"), {"serving"}),
        "lk_board": (Principal("key:board", "key", frozenset({"board"})), {"serving"}),
        "lk_trusted": (Principal("key:trusted", "key"), {"serving", "request_id"}),
        "lk_gateway": (Principal("key:gateway", "key"), {"gateway"}),
    }
)


@dataclass
class Running:
    """One server under test."""

    url: str
    config: ServeConfig
    shelf: Shelf
    tables: SpooledTables
    endpoints: Endpoints

    def client(self, **settings: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False, **settings)

    def log(self) -> list[dict[str, Any]]:
        return self.tables.rows(self.config.inference_log)

    def feedback(self) -> list[dict[str, Any]]:
        return self.tables.rows(self.config.feedback)


@contextmanager
def running(
    folder: Path, shelf: Shelf | None = None, *, rooms: Rooms | None = None, **settings: Any
) -> Iterator[Running]:
    """A server over `shelf` (one quoting chain by default) until the block ends; `rooms` have the registry's pages."""
    shelf = shelf or Shelf({1: SmallChain})
    config = ServeConfig(state=StateConfig(dir=folder), port=0, poll_s=0.05, shutdown_s=1, **settings)
    tables = SpooledTables(config.state.spool)
    answering = threading.Event()
    with (
        ExitStack() as stack,
        tables.spool,
        listening(config.host, config.port) as listener,
        Endpoints(config.endpoints, shelf, poll_s=config.poll_s) as endpoints,
    ):
        sql = stack.enter_context(open_sql(config.state)) if config.sign_in else None
        server = server_for(
            config, Backing(shelf, tables, KEYS, rooms, sql, Desk(config.state)), endpoints, answering.set
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert answering.wait(120)
            scheme = "https" if config.tls_cert else "http"
            yield Running(address(listener, scheme), config, shelf, tables, endpoints)
        finally:
            server.should_exit = True
            thread.join(120)
            assert not thread.is_alive()


def question(text: str = "What happens to deleted documents?", **more: Any) -> dict[str, Any]:
    """A request body."""
    return {"model": "chat", "messages": [{"role": "user", "content": text}], **more}


def ask(client: httpx.Client, text: str = "What happens to deleted documents?", **more: Any) -> dict[str, Any]:
    """Ask and give the completion."""
    response = client.post("/v1/chat/completions", json=question(text, **more))
    assert response.status_code == 200, response.text
    completion: dict[str, Any] = response.json()
    return completion


def stream(client: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask for a stream and give its chunks; it must end with [DONE]."""
    with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [orjson.loads(line[6:]) for line in lines[:-1]]


def eventually(check: Callable[[], Any], patience_s: float = 120) -> Any:
    """The first true value of `check`; fails when none comes."""
    deadline = time.monotonic() + patience_s
    while not (value := check()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
    return value
