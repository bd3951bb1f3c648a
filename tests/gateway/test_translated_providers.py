"""Gemini and Cohere behind the whole gateway: both official SDKs against them, rows compared with their ledgers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI
from tests.support.upstreams.anthropic import AnthropicServer
from tests.support.upstreams.cohere import CohereServer
from tests.support.upstreams.gemini import GeminiServer, signature_of
from tests.support.upstreams.wire import KEY, Answer, Call, WireServer, running
from tests.support.worker import PRICE, RunningWorker, running_worker

HELLO: Any = [{"role": "user", "content": "Hello"}]
FUNCTION: Any = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALLS = (Call("get_weather", {"city": "Köln"}, id="c1"), Call("get_weather", {"city": "Rome"}, id="c2"))


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, WireServer]]:
    with running(GeminiServer) as gemini, running(CohereServer) as cohere, running(AnthropicServer) as claude:
        yield {"gemini": gemini, "cohere": cohere, "anthropic": claude}


@pytest.fixture(scope="module")
def worker(upstreams: dict[str, WireServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "key").write_text(KEY)
    providers = {
        name: {"kind": name, "url": server.url, "api_key": f"file:{folder / 'key'}"}
        for name, server in upstreams.items()
    }

    def target(name: str, tier: int = 0) -> dict[str, Any]:
        return {"provider": name, "model": f"{name}-model", "price": PRICE, "tier": tier}

    once: dict[str, Any] = {"retry": {"attempts": 1}, "breaker": {"failures": 100}}
    routes = [{"name": name, "targets": [target(name)], **once} for name in ("gemini", "cohere")]
    routes.append({"name": "either", "targets": [target("anthropic"), target("gemini", 1)], **once})
    with running_worker(folder, providers=providers, routes=routes) as running_one:
        yield running_one


@pytest.fixture
def gpt(worker: RunningWorker) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{worker.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
def claude(worker: RunningWorker) -> Iterator[Anthropic]:
    with Anthropic(base_url=worker.url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(params=["gemini", "cohere"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def upstream(upstreams: dict[str, WireServer], model: str) -> Iterator[WireServer]:
    upstreams[model].forget()
    yield upstreams[model]
    assert upstreams[model].refused == []


def booked(worker: RunningWorker, upstream: WireServer) -> None:
    """The newest row says what the upstream's newest charge says."""
    charge = upstream.ledger[-1]
    wanted = (charge.input_tokens, charge.output_tokens)

    def newest() -> tuple[int | None, int | None]:
        row = worker.rows()[-1]
        return row.get("input_tokens"), row.get("output_tokens")

    worker.until(lambda: worker.rows() and newest() == wanted)


def test_openais_sdk(gpt: OpenAI, worker: RunningWorker, model: str, upstream: WireServer) -> None:
    upstream.script(Answer(pieces=("Hello", " you", f" from {model}")), Answer(pieces=("a", "b", "c", "d")))
    reply = gpt.chat.completions.create(model=model, messages=HELLO)
    assert reply.choices[0].message.content == f"Hello you from {model}"
    booked(worker, upstream)
    stream = gpt.chat.completions.create(
        model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "abcd"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == upstream.ledger[-1].output_tokens
    booked(worker, upstream)


def test_openais_tools_there_and_back(gpt: OpenAI, model: str, upstream: WireServer) -> None:
    upstream.script(Answer(pieces=(), tools=CALLS), Answer())
    tools: Any = [{"type": "function", "function": FUNCTION}]
    message = gpt.chat.completions.create(model=model, messages=HELLO, tools=tools).choices[0].message
    assert message.tool_calls is not None
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    turns: Any = [*HELLO, message.model_dump(exclude_none=True), *results]
    gpt.chat.completions.create(model=model, messages=turns, tools=tools)
    if model == "gemini":
        assert signature_of(CALLS[0]) in json.dumps(upstream.requests[-1].body)


@pytest.mark.parametrize("streamed", [False, True])
def test_anthropics_sdk(
    claude: Anthropic, worker: RunningWorker, model: str, upstream: WireServer, streamed: bool
) -> None:
    tools: Any = [{"name": "get_weather", "input_schema": FUNCTION["parameters"]}]
    asked: dict[str, Any] = {"model": model, "max_tokens": 60, "tools": tools}
    upstream.script(Answer(pieces=(), tools=CALLS), Answer(pieces=("Sun", "ny")))
    if streamed:
        with claude.messages.stream(messages=HELLO, **asked) as stream:
            reply: Any = stream.get_final_message()
    else:
        reply = claude.messages.create(messages=HELLO, **asked)
    booked(worker, upstream)
    uses = [block for block in reply.content if block.type == "tool_use"]
    assert [(use.id, use.input) for use in uses] == [(call.id, call.arguments) for call in CALLS]
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"} for use in uses]
    turns: Any = [*HELLO, {"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]
    final: Any = claude.messages.create(messages=turns, **asked)
    assert final.content[0].text == "Sunny"
    if model == "gemini":
        assert signature_of(CALLS[0]) in json.dumps(upstream.requests[-1].body)


def test_a_stream_that_is_cut_is_booked_as_far_as_it_came(
    worker: RunningWorker, model: str, upstream: WireServer
) -> None:
    upstream.script(Answer(pieces=("x",) * 40, cut_after=25))
    body = {"model": model, "messages": HELLO, "stream": True}
    reply = worker.chat(body)
    assert "error" in reply.text.splitlines()[-2]
    charge = upstream.ledger[-1]
    wanted = charge.output_tokens
    row = worker.until(lambda: next((row for row in worker.rows() if row.get("output_tokens") == wanted), None))
    assert row["endpoint"] == model
    assert row["tags"]["estimated"] == "true"


def test_embeddings_and_rerank(worker: RunningWorker, gpt: OpenAI, model: str, upstream: WireServer) -> None:
    vectors = gpt.embeddings.create(model=model, input=["one", "two"])
    assert [len(item.embedding) for item in vectors.data] == [3, 3]
    booked(worker, upstream)
    if model == "cohere":
        asked = {"model": model, "query": "q", "documents": ["a", "b"]}
        with worker.client() as client:
            ranked = client.post("/v1/rerank", json=asked)
        assert [result["index"] for result in ranked.json()["results"]] == [0, 1]


@pytest.mark.parametrize("streamed", [False, True])
def test_another_provider_answers_where_the_first_is_overloaded(
    claude: Anthropic, upstreams: dict[str, WireServer], streamed: bool
) -> None:
    upstreams["anthropic"].script(Answer(status=529, error=("overloaded_error", "Overloaded")))
    upstreams["gemini"].script(Answer(pieces=("From", " Gemini")))
    asked: dict[str, Any] = {"model": "either", "max_tokens": 60, "messages": HELLO}
    if streamed:
        with claude.messages.stream(**asked) as stream:
            assert stream.get_final_text() == "From Gemini"
    else:
        reply: Any = claude.messages.create(**asked)
        assert reply.content[0].text == "From Gemini"
