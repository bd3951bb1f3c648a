"""What goes wrong around an answer: a failing model, a reader who leaves, too many at once, a log that refuses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Semaphore
from typing import Any

import httpx
import orjson
import pytest
from tests.support.chain import Shelf, SmallChain
from tests.support.serving import Running, eventually, question, running
from tests.support.upstream import Reply, Seen, Upstream, running_upstream

from llmops.core.chain import ChainContext
from llmops.core.errors import StorageError


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as started:
        yield started


@pytest.fixture
def told(upstream: Upstream, state: Path) -> Iterator[Running]:
    """A server whose chain is told by the upstream."""
    with running(state, Shelf({1: lambda: SmallChain(llm_url=upstream.url)})) as server:
        yield server


def stream_lines(client: httpx.Client) -> list[Any]:
    """The data of a stream, [DONE] as text."""
    with client.stream("POST", "/v1/chat/completions", json=question(stream=True)) as response:
        assert response.status_code == 200
        data = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else orjson.loads(line) for line in data]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(("upstream_status", "status"), [(500, 502), (429, 429)])
def test_an_error_before_the_first_piece_is_an_http_error(
    told: Running, upstream: Upstream, upstream_status: int, status: int, streamed: bool
) -> None:
    upstream.script(Reply(status=upstream_status, error="scripted"))
    with told.client() as client:
        response = client.post("/v1/chat/completions", json=question(stream=streamed))
    assert response.status_code == status
    assert response.json()["error"]["type"] in ("server_error", "invalid_request_error")
    assert ("retry-after" in response.headers) is (status == 429)
    row = told.log()[-1]
    assert row["request_id"] == response.headers["x-request-id"]
    assert row["status_code"] == status
    assert row["error_class"] == ("RateLimitedError" if status == 429 else "UpstreamError")
    assert row["ttfb_ms"] is None


def test_an_answer_cut_in_the_middle_ends_in_an_error_event_and_is_logged(told: Running, upstream: Upstream) -> None:
    upstream.script(Reply(pieces=("The index ", "equals ", "its documents"), cut_after=2))
    with told.client() as client:
        *chunks, failure, end = stream_lines(client)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == "The index equals "
    assert failure["error"]["code"] == "upstream_error"
    assert failure["llmops"]["request_id"]
    assert end == "[DONE]"
    row = told.log()[-1]
    assert (row["status_code"], row["error_class"]) == (502, "UpstreamError")
    assert orjson.loads(row["response_json"])["content"] == text


def test_a_slow_answer_arrives_as_it_is_made(told: Running, upstream: Upstream) -> None:
    upstream.script(Reply(pieces=("one ", "two ", "three"), delay_s=0.1, piece_delay_s=0.05))
    with told.client() as client:
        chunks = stream_lines(client)
    told_by_chunk = [chunk["choices"][0]["delta"].get("content") for chunk in chunks[:-1]]
    assert [piece for piece in told_by_chunk if piece] == ["one ", "two ", "three"]
    assert told.log()[-1]["ttfb_ms"] >= 100


def test_silence_is_bridged_by_comments(told: Running, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmops.serving.api.reply.SILENCE_S", 0.1)
    late = Semaphore(0)
    upstream.script(Reply(pieces=("late",), allowed=late))
    with (
        told.client() as client,
        client.stream("POST", "/v1/chat/completions", json=question(stream=True)) as response,
    ):
        lines = response.iter_lines()
        assert ": keep-alive" in lines  # read as far as that
        late.release()
        assert any('"content":"late"' in line for line in lines)


def ask_and_leave(server: Running, upstream: Upstream, *, streamed: bool, heard: bytes = b"") -> Seen:
    """Hang up once the model was asked and these bytes came; gives the request that the model got."""
    body = orjson.dumps(question(stream=streamed))
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        seen: Seen = eventually(lambda: upstream.requests and upstream.requests[0])
        received = b""
        while heard not in received:
            received += connection.recv(65_536)
    return seen


@pytest.mark.parametrize("streamed", [True, False])
def test_a_reader_who_leaves_stops_the_model(told: Running, upstream: Upstream, streamed: bool) -> None:
    upstream.script(Reply(pieces=("word ",) * 200, allowed=Semaphore(3)))
    seen = ask_and_leave(told, upstream, streamed=streamed, heard=b'"word "' if streamed else b"")
    assert seen.client_left.wait(60)
    row = eventually(told.log)[-1]
    assert (row["status_code"], row["error_class"]) == (499, "Cancelled")


def test_a_reader_who_leaves_before_the_first_byte_stops_the_model(told: Running, upstream: Upstream) -> None:
    upstream.script(Reply(delay_s=600))
    assert ask_and_leave(told, upstream, streamed=True).client_left.wait(60)


class Gate:
    """Holds chains before their first piece until it opens; a cancelled chain leaves."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = threading.Semaphore(0)

    def __call__(self, number: int, context: ChainContext) -> None:
        if number == 0:
            self.inside.release()
            while not self.open.wait(0.01):
                context.cancel.check()


def chains(before_piece: Callable[[int, ChainContext], None]) -> Shelf:
    return Shelf({1: lambda: SmallChain(before_piece=before_piece)})


def in_background(server: Running) -> tuple[threading.Thread, list[int]]:
    statuses: list[int] = []

    def post() -> None:
        with server.client() as client:
            statuses.append(client.post("/v1/chat/completions", json=question()).status_code)

    thread = threading.Thread(target=post)
    thread.start()
    return thread, statuses


def test_too_many_at_once_wait_and_the_rest_is_refused(state: Path) -> None:
    gate = Gate()
    with running(state, chains(gate), limits={"concurrent": 1, "waiting": 1}) as server:
        first, first_status = in_background(server)
        assert gate.inside.acquire(timeout=60)
        second, second_status = in_background(server)
        with server.client() as client:
            eventually(lambda: "llmops_answers_waiting 1.0" in client.get("/metrics").text)
            refused = client.post("/v1/chat/completions", json=question())
        assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
        assert refused.json()["error"]["code"] == "too_busy"
        gate.open.set()
        first.join()
        second.join()
    assert first_status == second_status == [200]


def test_an_endless_answer_is_cut(state: Path) -> None:
    gate = Gate()
    with running(state, chains(gate), limits={"answer_s": 0.3}) as server, server.client() as client:
        response = client.post("/v1/chat/completions", json=question(stream=True))
        assert (response.status_code, response.json()["error"]["code"]) == (504, "answer_timeout")
        assert server.log()[-1]["error_class"] == "AnswerTimeoutError"


def test_a_defect_in_a_chain_is_told_without_its_inside(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(number: int, context: ChainContext) -> None:
        raise ZeroDivisionError("secret detail")

    with running(state, chains(broken)) as server, server.client() as client:
        response = client.post("/v1/chat/completions", json=question())
        row = server.log()[-1]
    assert (response.status_code, response.json()["error"]["code"]) == (500, "chain_failed")
    assert "secret detail" not in response.text
    assert row["status_code"] == 500
    assert "ZeroDivisionError: secret detail" in caplog.text


def test_a_reader_who_does_not_read_holds_the_chain_back(state: Path) -> None:
    made: list[int] = []

    class Endless(SmallChain):
        def _pieces(self, messages: Any, passages: Any, context: Any) -> Iterator[str]:
            for number in range(2000):
                made.append(number)
                yield "x" * 65_536

    with running(state, Shelf({1: Endless})) as server, server.client() as client:
        with client.stream("POST", "/v1/chat/completions", json=question(stream=True)) as response:
            reader = response.iter_raw()
            next(reader)
            eventually(lambda: len(made) > 64)
            threading.Event().wait(0.3)
            held = len(made)
            reader.close()
        assert held < 500  # 64 wait in the bridge, the rest fills the sockets' buffers
        assert eventually(server.log)[-1]["error_class"] == "Cancelled"


def test_a_log_that_refuses_is_loud_but_the_answer_stands(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(state) as server, server.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr(server.tables, "append", _disk_full)
            assert client.post("/v1/chat/completions", json=question()).status_code == 200
            assert client.get("/readyz").status_code == 503
            assert "disk full" in client.get("/readyz").json()["log"]
        assert "llmops_log_rows_lost_total" in client.get("/metrics").text
        assert client.post("/v1/chat/completions", json=question()).status_code == 200
        assert client.get("/readyz").status_code == 200
        assert len(server.log()) == 1


def _disk_full(*_: Any) -> None:
    raise StorageError("disk full")


def test_a_stop_ends_running_answers(state: Path) -> None:
    gate = Gate()
    with running(state, chains(gate)) as server:
        thread, _ = in_background(server)
        assert gate.inside.acquire(timeout=60)
    thread.join(60)
    assert not thread.is_alive()
    assert server.shelf.loaded[0].closed.wait(60)
