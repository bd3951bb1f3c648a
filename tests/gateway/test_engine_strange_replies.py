"""Replies of a strange shape, and failures of our own while one is handled: nobody is left waiting for an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from tests.gateway.test_cache_replay import CHAT, MESSAGE, RESPONSE, TEXT
from tests.support.faulty import Scripted, scripted_upstream, text
from tests.support.json_values import mutants
from tests.support.raw_upstream import CHUNKED, Heard, pool, read_request, upstream
from tests.support.wire import JSON, run
from tests.support.worker import RunningWorker, route, running_worker, user_says

from llmops.gateway.cache import replayed
from llmops.gateway.calls import Fault, Operation, UpstreamRequest
from llmops.gateway.config import ProviderConfig
from llmops.gateway.providers import open_provider

COMPATIBLE = open_provider(ProviderConfig(url="http://a/v1", operations=("chat", "completions", "responses")), "k")
ANTHROPIC = open_provider(ProviderConfig(kind="anthropic"), "k")
WHOLE: dict[Operation, dict[str, Any]] = {
    "chat": CHAT, "completions": TEXT, "messages": MESSAGE, "responses": RESPONSE,
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with scripted_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def worker(server: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    routes = [route("chat", retry={"attempts": 1})]
    config = {"providers": {"first": {"url": server.url}}, "routes": routes}
    with running_worker(tmp_path_factory.mktemp("worker"), **config) as running:
        yield running


@pytest.mark.parametrize("message", ["hello", [1], 5, True, None])
def test_a_whole_reply_with_a_strange_choice_where_a_stream_was_asked_for(
    worker: RunningWorker, server: Scripted, message: Any
) -> None:
    good, strange = CHAT["choices"]
    server.reset(text(json.dumps({**CHAT, "choices": [good, {**strange, "message": message}]}).encode()))
    reply = worker.chat(user_says(stream=True, n=2))
    assert reply.status_code == 502, reply.text
    assert "choice without a message" in reply.json()["error"]["message"]
    row = worker.row_of(reply)
    assert (row["status_code"], row["error_class"]) == (502, "invalid")
    server.reset()
    assert worker.chat().status_code == 200


@pytest.mark.parametrize("operation", WHOLE)
def test_whatever_a_provider_may_answer_can_be_said_as_a_stream(operation: Operation) -> None:
    provider = ANTHROPIC if operation == "messages" else COMPATIBLE
    taken = 0
    for reply in mutants(WHOLE[operation]):
        try:
            provider.reply(operation, orjson.dumps(reply))
        except Fault:
            continue
        taken += 1
        assert replayed(operation, reply, {"stream": True, "stream_options": {"include_usage": True}})
    assert taken > 10


class Failing(Heard):
    """A listener that breaks on what it hears at the end."""

    def on_reply(self, status: int, headers: Any, body: bytes) -> None:
        raise RuntimeError("we failed")

    def on_end(self) -> None:
        raise RuntimeError("we failed")


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", b"k"),
        (CHUNKED + b"2\r\nok\r\n", b"0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\nok",),
    ],
    ids=["at once", "in pieces", "chunks", "until close"],
)
def test_a_listener_that_fails_at_the_end_of_a_reply_hears_so(pieces: tuple[bytes, ...]) -> None:
    async def script(reader: Any, writer: Any) -> None:
        await read_request(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    async def work() -> Heard:
        heard = Failing()
        async with upstream(script) as origin, pool(origin.url) as one:
            one.call(UpstreamRequest("/v1/chat/completions", JSON, b"{}"), heard, first_byte_s=30, idle_s=30)
            await heard.over.wait()
        return heard

    heard = run(work())
    assert heard.fault is not None
    assert heard.fault.kind == "invalid"
