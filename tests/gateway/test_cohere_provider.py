"""Cohere's provider against a strict server, against the examples of its documentation, and against nonsense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nonsense import EXAMPLES, documents, event_streams, objects
from tests.support.provider_calls import PIXEL, WEATHER, ask, ask_stream, fault_of, pieces, provider_of
from tests.support.provider_calls import target as any_target
from tests.support.upstreams.cohere import PLAN, CohereServer
from tests.support.upstreams.wire import KEY, Answer, Call, running

from llmops.gateway.calls import Fault, Usage
from llmops.gateway.config import ProviderConfig
from llmops.gateway.providers import open_provider
from llmops.gateway.providers.cohere.request import chat_request

HELLO: dict[str, Any] = {"model": "r", "messages": [{"role": "user", "content": "Hello"}]}
OTHER = json.loads(json.dumps(WEATHER).replace("get_weather", "other"))


def target(model: str = "command-a-03-2025", **more: Any) -> Any:
    return any_target(model, **more)


@pytest.fixture(scope="module")
def server() -> Iterator[CohereServer]:
    with running(CohereServer) as server:
        yield server


def test_a_conversation_with_everything_is_accepted_and_keeps_its_order(server: CohereServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"location":"Paris"}'}}
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    body = {
        "model": "r",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "I will look."},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            {"role": "assistant", "content": "Sunny."},
            {"role": "user", "content": [{"type": "text", "text": "And here?"}, picture]},
        ],
        "tools": [WEATHER, OTHER],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "stop": "END",
        "max_tokens": 300,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    }
    ask(provider_of("cohere", server), server, "chat", body, target())
    sent = server.requests[-1].body
    assert sent.pop("tools") == [WEATHER]
    assert sent == {
        "model": "command-a-03-2025",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "tool_calls": [call], "tool_plan": "I will look."},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            {"role": "assistant", "content": "Sunny."},
            {"role": "user", "content": [{"type": "text", "text": "And here?"}, picture]},
        ],
        "max_tokens": 300,
        "stream": False,
        "temperature": 0.5,
        "p": 0.9,
        "seed": 7,
        "stop_sequences": ["END"],
        "response_format": {"type": "json_object", "json_schema": {"type": "object"}},
        "tool_choice": "REQUIRED",
        "thinking": {"type": "enabled", "token_budget": 60},
    }


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [WEATHER], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, "messages.0.content.0.type"),
    ],
)
def test_what_cohere_cannot_do_is_told_by_name(wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(Fault) as caught:
        chat_request({**HELLO, **wrong}, target())
    assert (caught.value.kind, caught.value.status, caught.value.param) == ("bad_request", 400, param)


def test_a_whole_answer(server: CohereServer) -> None:
    server.script(Answer(thinking="Let me think.", cached=4))
    reply = ask(provider_of("cohere", server), server, "chat", HELLO, target())
    told = json.loads(reply.body)
    assert told["choices"][0]["message"]["content"] == "Hello there!"
    assert told["choices"][0]["message"]["reasoning_content"] == "Let me think."
    assert told["choices"][0]["finish_reason"] == "stop"
    charged = server.ledger[-1]
    assert reply.usage == Usage(charged.input_tokens, charged.output_tokens, cached_tokens=4)


def test_tool_calls_and_their_plan_come_back(server: CohereServer) -> None:
    server.script(Answer(tools=(Call("get_weather", {"location": "Paris"}, "a"), Call("other", {}, "b"))))
    body = {**HELLO, "tools": [WEATHER, OTHER]}
    provider = provider_of("cohere", server)
    message = json.loads(ask(provider, server, "chat", body, target()).body)["choices"][0]["message"]
    assert message["reasoning_content"] == PLAN
    results = [{"role": "tool", "tool_call_id": id_, "content": "sunny"} for id_ in "ab"]
    ask(provider, server, "chat", {**body, "messages": [*HELLO["messages"], message, *results]}, target())
    back = server.requests[-1].body["messages"][1]
    assert back["tool_plan"] == PLAN
    assert [json.loads(call["function"]["arguments"]) for call in back["tool_calls"]] == [{"location": "Paris"}, {}]


@pytest.mark.parametrize("cut", [1, 10, 100_000])
def test_streams(server: CohereServer, cut: int) -> None:
    provider = provider_of("cohere", server)
    server.script(Answer(thinking="Hm hm"), Answer(tools=(Call("get_weather", {"location": "Paris"}, "a"),)))
    spoken = ask_stream(provider, server, HELLO, target(), cut)
    assert (spoken.text("reasoning_content"), spoken.text()) == ("Hmhm", "Hello there!")
    assert spoken.finish == "stop"
    charged = server.ledger[-1]
    assert spoken.state.usage == Usage(charged.input_tokens, charged.output_tokens)
    assert spoken.state.finished
    assert spoken.chunks[-1]["usage"]["prompt_tokens"] == charged.input_tokens
    called = ask_stream(provider, server, {**HELLO, "tools": [WEATHER]}, target(), cut)
    assert called.tool_calls == [{"id": "a", "name": "get_weather", "arguments": '{"location": "Paris"}'}]
    assert called.text("reasoning_content").strip() == PLAN
    assert called.finish == "tool_calls"


def test_a_cut_stream_and_one_that_failed(server: CohereServer) -> None:
    provider = provider_of("cohere", server)
    server.script(Answer(pieces=("x",) * 20, cut_after=12), Answer(error_after=3, error=("x", "too bad")))
    cut = ask_stream(provider, server, HELLO, target())
    assert (cut.state.finished, cut.state.usage, cut.state.fault) == (False, None, None)
    assert cut.state.received == server.ledger[-1].output_tokens == 10
    failed = ask_stream(provider, server, HELLO, target())
    assert failed.state.fault is not None
    assert (failed.state.fault.kind, failed.state.fault.message) == ("server_error", "too bad")


@pytest.mark.parametrize(
    ("reason", "finish"), [("COMPLETE", "stop"), ("MAX_TOKENS", "length"), ("STOP_SEQUENCE", "stop")]
)
def test_finish_reasons(server: CohereServer, reason: str, finish: str) -> None:
    server.script(Answer(stop=reason), Answer(stop=reason))
    provider = provider_of("cohere", server)
    assert ask(provider, server, "chat", HELLO, target()).finish == finish
    assert ask_stream(provider, server, HELLO, target()).finish == finish


def test_an_answer_that_failed_is_a_fault(server: CohereServer) -> None:
    server.script(Answer(stop="ERROR"))
    assert fault_of(provider_of("cohere", server), server, "chat", HELLO, target()).kind == "server_error"


def test_error_replies(server: CohereServer) -> None:
    provider = provider_of("cohere", server)
    server.script(Answer(status=429, error=("x", "trial key"), headers={"retry-after": "3"}), Answer(status=503))
    limited = fault_of(provider, server, "chat", HELLO, target())
    assert (limited.kind, limited.message, limited.retry_after_s) == ("rate_limited", "trial key", 3)
    assert fault_of(provider, server, "chat", HELLO, target()).kind == "overloaded"
    assert fault_of(provider_of("cohere", server, "no"), server, "chat", HELLO, target()).kind == "unauthenticated"
    assert fault_of(provider, server, "chat", {**HELLO, "frequency_penalty": 2}, target()).kind == "bad_request"


def test_embeddings(server: CohereServer) -> None:
    body = {"model": "r", "input": ["one", "two"], "dimensions": 512, "input_type": "search_query"}
    reply = ask(provider_of("cohere", server), server, "embeddings", body, target("embed-v4.0"))
    assert [item["embedding"] for item in json.loads(reply.body)["data"]] == [[0.5, -0.5, 0.0], [0.5, -0.5, 1.0]]
    sent = server.requests[-1].body
    assert (sent["input_type"], sent["output_dimension"], sent["embedding_types"]) == ("search_query", 512, ["float"])
    assert reply.usage == Usage(server.ledger[-1].input_tokens)


def test_rerank(server: CohereServer) -> None:
    body = {"model": "r", "query": "q", "documents": ["a", {"text": "b"}, "c"], "top_n": 2, "return_documents": False}
    reply = ask(provider_of("cohere", server), server, "rerank", body, target("rerank-v4.0-pro"))
    assert [result["index"] for result in json.loads(reply.body)["results"]] == [0, 1]
    assert reply.usage == Usage(searches=1)
    assert server.requests[-1].body["documents"] == ["a", "b", "c"]


def test_the_documented_stream() -> None:
    """Source: https://docs.cohere.com/v2/docs/streaming"""
    stream = b"""event: message-start
data: {"type":"message-start","id":"29f14a5a-11de-4cae-9800-25e4747408ea","delta":{"message":{"role":"assistant",\
"content":[],"tool_plan":"","tool_calls":[],"citations":[]}}}

event: content-start
data: {"type":"content-start","index":0,"delta":{"message":{"content":{"type":"text","text":""}}}}

event: content-delta
data: {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"LLM"}}}}

event: content-delta
data: {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":" stands"}}}}

event: content-end
data: {"type":"content-end","index":0}

event: message-end
data: {"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":3,\
"output_tokens":239},"tokens":{"input_tokens":69,"output_tokens":239}}}}

data: [DONE]

"""
    reader = _provider().reader({})
    chunks = [chunk for piece in pieces(stream, 13) for chunk in reader.feed(piece)]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks[:-1]) == "LLM stands"
    assert (reader.usage, reader.finished) == (Usage(3, 239), True)


def _provider() -> Any:
    return open_provider(ProviderConfig(kind="cohere"), KEY)


CHAT = (
    "messages role content type text tool_calls function arguments tools tool_choice stop stream response_format "
    "image_url url reasoning_content user assistant tool system id name tool_call_id input query documents"
)
EVENT = (
    "id delta message content text thinking tool_calls function name arguments tool_plan usage billed_units error "
    "input_tokens output_tokens finish_reason embeddings float results index relevance_score meta index"
)
KINDS = "message-start content-start content-delta tool-plan-delta tool-call-start tool-call-delta message-end"


@settings(max_examples=EXAMPLES, deadline=None)
@given(body=objects(CHAT))
def test_any_json_as_a_request_is_said_or_refused(body: dict[str, Any]) -> None:
    for operation in ("chat", "embeddings", "rerank"):
        refused = None
        try:
            assert _provider().build(operation, body, target()).body
        except Fault as fault:
            refused = fault.kind
        assert refused in (None, "bad_request")


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=event_streams(EVENT, KINDS), cut=st.integers(1, 50))
def test_any_stream_is_read_or_a_fault(data: bytes, cut: int) -> None:
    reader = _provider().reader({})
    for piece in pieces(data, cut):
        reader.feed(piece)
    assert reader.received >= 0
    assert reader.fault is None or isinstance(reader.fault, Fault)


@settings(max_examples=EXAMPLES, deadline=None)
@given(body=documents(EVENT), status=st.integers(400, 599))
def test_any_reply_is_read_or_a_fault(body: bytes, status: int) -> None:
    for operation in ("chat", "embeddings", "rerank"):
        try:
            reply = _provider().reply(operation, body)
        except Fault:
            continue
        assert json.loads(reply.body) is not None
    assert isinstance(_provider().fault(status, [], body), Fault)
