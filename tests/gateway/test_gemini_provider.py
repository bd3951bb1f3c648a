"""Gemini's provider against a strict server, against the examples of its documentation, and against nonsense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nonsense import ARGUMENTS, EXAMPLES, NAMES, TEXT, documents, event_streams, objects
from tests.support.provider_calls import PIXEL, WEATHER, ask, ask_stream, fault_of, pieces, provider_of
from tests.support.provider_calls import target as any_target
from tests.support.upstreams.gemini import SKIP, GeminiServer, signature_of
from tests.support.upstreams.wire import KEY, Answer, Call, running

from llmops.gateway.calls import Fault, Usage
from llmops.gateway.config import ProviderConfig
from llmops.gateway.providers import open_provider
from llmops.gateway.providers.gemini.request import generate_request

HELLO: dict[str, Any] = {"model": "r", "messages": [{"role": "user", "content": "Hello"}]}


def target(model: str = "gemini-3.8-flash", **more: Any) -> Any:
    return any_target(model, **more)


@pytest.fixture(scope="module")
def server() -> Iterator[GeminiServer]:
    with running(GeminiServer) as server:
        yield server


def test_a_conversation_with_everything_is_accepted_and_keeps_its_order(server: GeminiServer) -> None:
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"location":"Paris"}'}},
        {"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
    ]
    body = {
        "model": "r",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": '{"sky": "blue"}'},
            {"role": "tool", "tool_call_id": "c2", "content": "noon"},
            {"role": "developer", "content": [{"type": "text", "text": "In French."}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "See:"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                ],
            },
        ],
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "stop": ["END"],
        "max_tokens": 300,
        "temperature": 1.5,
        "top_p": 0.9,
        "seed": 7,
        "presence_penalty": 0.5,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    }
    ask(provider_of("gemini", server), server, "chat", body, target())
    sent = server.requests[-1].body
    assert sent["systemInstruction"] == {"parts": [{"text": "Be brief."}, {"text": "In French."}]}
    assert [turn["role"] for turn in sent["contents"]] == ["user", "model", "user"]
    assert [part.get("thoughtSignature") for part in sent["contents"][1]["parts"]] == [SKIP, None]
    results = [part.get("functionResponse") for part in sent["contents"][2]["parts"]]
    assert results[0] == {"id": "c1", "name": "get_weather", "response": {"output": {"sky": "blue"}}}
    assert results[1] == {"id": "c2", "name": "now", "response": {"output": "noon"}}
    assert sent["contents"][2]["parts"][3] == {"inlineData": {"mimeType": "image/png", "data": PIXEL}}
    assert sent["toolConfig"]["functionCallingConfig"] == {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}
    assert sent["generationConfig"] == {
        "maxOutputTokens": 300,
        "temperature": 1.5,
        "topP": 0.9,
        "presencePenalty": 0.5,
        "seed": 7,
        "stopSequences": ["END"],
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
        "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"},
    }


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        ("gemini-3.8-flash", "max", {"includeThoughts": True, "thinkingLevel": "XHIGH"}),
        ("gemini-3-pro", "none", {"includeThoughts": False, "thinkingLevel": "MINIMAL"}),
        ("gemini-2.5-flash", "none", {"includeThoughts": False, "thinkingBudget": 0}),
        ("gemini-2.5-pro", "medium", {"includeThoughts": True, "thinkingBudget": 8192}),
    ],
)
def test_reasoning_effort(server: GeminiServer, model: str, effort: str, thinking: Any) -> None:
    ask(provider_of("gemini", server), server, "chat", {**HELLO, "reasoning_effort": effort}, target(model))
    assert server.requests[-1].body["generationConfig"]["thinkingConfig"] == thinking


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"seed": 2**40}, "seed"),
        ({"tools": [WEATHER], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]}, "messages.0.tool_call_id"),
    ],
)
def test_what_gemini_cannot_do_is_told_by_name(wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(Fault) as caught:
        generate_request({**HELLO, **wrong}, target())
    assert (caught.value.kind, caught.value.status, caught.value.param) == ("bad_request", 400, param)


def test_a_picture_behind_a_link_is_refused_since_nothing_is_fetched() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
    with pytest.raises(Fault, match="data: URL") as caught:
        generate_request({**HELLO, "messages": [{"role": "user", "content": [image]}]}, target())
    assert caught.value.param == "messages.0.content.0.image_url"


def test_signatures_come_back_with_their_calls(server: GeminiServer) -> None:
    calls = (Call("get_weather", {"location": "Paris"}, "a"), Call("get_weather", {"location": "Rome"}, "b"))
    server.script(Answer(pieces=(), thinking="Two calls.", tools=calls, cached=4))
    body = {**HELLO, "tools": [WEATHER]}
    provider = provider_of("gemini", server)
    reply = ask(provider, server, "chat", body, target())
    told = json.loads(reply.body)
    message = told["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == (None, "Two calls.")
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == [
        '{"location":"Paris"}',
        '{"location":"Rome"}',
    ]
    assert told["choices"][0]["finish_reason"] == "tool_calls"
    charged = server.ledger[-1]
    assert reply.usage == Usage(charged.input_tokens, charged.output_tokens, 4, reasoning_tokens=2)
    results = [{"role": "tool", "tool_call_id": id_, "content": "sunny"} for id_ in "ab"]
    ask(provider, server, "chat", {**body, "messages": [*HELLO["messages"], message, *results]}, target())
    back = server.requests[-1].body["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in back] == [signature_of(calls[0]), None]


@pytest.mark.parametrize("cut", [1, 10, 100_000])
def test_a_stream_with_thoughts_and_tools(server: GeminiServer, cut: int) -> None:
    server.script(Answer(thinking="Hm, hm.", tools=(Call("get_weather", {"location": "Paris"}, "a"),), cached=2))
    streamed = ask_stream(provider_of("gemini", server), server, {**HELLO, "tools": [WEATHER]}, target(), cut)
    assert server.requests[-1].path == "/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse"
    assert streamed.text() == "Hello there!"
    assert streamed.text("reasoning_content") == "Hm, hm."
    signature = signature_of(Call("get_weather", {}))
    assert streamed.tool_calls == [
        {
            "id": "a",
            "name": "get_weather",
            "arguments": '{"location":"Paris"}',
            "extra_content": {"google": {"thought_signature": signature}},
        }
    ]
    assert streamed.finish == "tool_calls"
    charged = server.ledger[-1]
    assert streamed.state.usage == Usage(charged.input_tokens, charged.output_tokens, 2, reasoning_tokens=2)
    assert streamed.chunks[-1]["usage"]["completion_tokens"] == charged.output_tokens
    assert streamed.state.finished
    assert streamed.state.model == "gemini-3.8-flash"


def test_a_cut_stream_has_an_estimate(server: GeminiServer) -> None:
    server.script(Answer(pieces=("x",) * 20, cut_after=10))
    streamed = ask_stream(provider_of("gemini", server), server, HELLO, target())
    usage = streamed.state.usage
    assert not streamed.state.finished
    assert usage is not None
    assert usage.estimated
    assert (usage.input_tokens, usage.output_tokens) == (server.ledger[-1].input_tokens, 10)
    assert all(chunk["choices"] for chunk in streamed.chunks)


def test_an_error_within_a_stream(server: GeminiServer) -> None:
    server.script(Answer(error_after=1, error=("x", "The model is overloaded.")))
    streamed = ask_stream(provider_of("gemini", server), server, HELLO, target())
    assert streamed.state.fault is not None
    assert (streamed.state.fault.kind, streamed.state.fault.message) == ("overloaded", "The model is overloaded.")


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("OTHER", "stop")],
)
def test_finish_reasons(server: GeminiServer, reason: str, finish: str) -> None:
    server.script(Answer(stop=reason), Answer(stop=reason))
    provider = provider_of("gemini", server)
    assert ask(provider, server, "chat", HELLO, target()).finish == finish
    assert ask_stream(provider, server, HELLO, target()).finish == finish


@pytest.mark.parametrize(
    ("told", "finish", "refusal"),
    [
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "content_filter", "the prompt was blocked: SAFETY"),
        (
            {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL", "finishMessage": "Malformed: x"}]},
            "stop",
            "Malformed: x",
        ),
    ],
)
def test_an_answer_without_content_says_why_and_is_still_booked(told: Any, finish: str, refusal: str) -> None:
    body = json.dumps({**told, "usageMetadata": {"promptTokenCount": 9}}).encode()
    reply = _provider().reply("chat", body)
    choice = json.loads(reply.body)["choices"][0]
    assert (choice["finish_reason"], choice["message"]["refusal"]) == (finish, refusal)
    assert reply.usage == Usage(9, 0)


def test_error_replies(server: GeminiServer) -> None:
    provider = provider_of("gemini", server)
    server.script(Answer(status=429, error=("x", "quota")), Answer(status=503), Answer(status=500))
    limited = fault_of(provider, server, "chat", HELLO, target())
    assert (limited.kind, limited.retry_after_s) == ("rate_limited", 22.0)
    assert fault_of(provider, server, "chat", HELLO, target()).kind == "overloaded"
    assert fault_of(provider, server, "chat", HELLO, target()).kind == "server_error"
    wrong_key = fault_of(provider_of("gemini", server, "AIza-wrong"), server, "chat", HELLO, target())
    assert (wrong_key.kind, wrong_key.status) == ("unauthenticated", 502)
    server.script(Answer(status=400, error=("x", "User location is not supported for the API use.")))
    assert fault_of(provider, server, "chat", HELLO, target()).retryable
    server.script(
        Answer(status=400, error=("x", "The input token count (9) exceeds the maximum number of tokens allowed (8)."))
    )
    assert fault_of(provider, server, "chat", HELLO, target()).kind == "context_too_long"


@pytest.mark.parametrize("given_", ["one text", ["one", "two", "three"]])
def test_embeddings(server: GeminiServer, given_: Any) -> None:
    body = {"model": "r", "input": given_, "dimensions": 128, "encoding_format": "float"}
    reply = ask(provider_of("gemini", server), server, "embeddings", body, target("gemini-embedding-2"))
    told = json.loads(reply.body)
    texts = [given_] if isinstance(given_, str) else given_
    assert [item["index"] for item in told["data"]] == list(range(len(texts)))
    assert [item["embedding"][2] for item in told["data"]] == [float(number) for number in range(len(texts))]
    sent = server.requests[-1].body["requests"]
    assert [request["content"]["parts"][0]["text"] for request in sent] == texts
    assert {request["outputDimensionality"] for request in sent} == {128}
    assert reply.usage == Usage(server.ledger[-1].input_tokens)


def test_token_numbers_are_refused() -> None:
    with pytest.raises(Fault, match="token numbers"):
        _provider().build("embeddings", {"model": "r", "input": [[1, 2]]}, target())


def test_the_documented_reply() -> None:
    """Source: https://ai.google.dev/gemini-api/docs/text-generation (REST), with a signed text part of Gemini 3."""
    body = {
        "candidates": [
            {
                "content": {"role": "model", "parts": [{"text": "1+1 equals 2.", "thoughtSignature": "EjQKMgEM"}]},
                "finishReason": "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": {"promptTokenCount": 15, "candidatesTokenCount": 6, "totalTokenCount": 21},
        "modelVersion": "gemini-3.1-flash-lite",
        "responseId": "Il0taoSYJ5Cez7",
    }
    reply = _provider().reply("chat", json.dumps(body).encode())
    told = json.loads(reply.body)
    assert told["choices"][0]["message"]["content"] == "1+1 equals 2."
    assert (told["id"], told["model"]) == ("Il0taoSYJ5Cez7", "gemini-3.1-flash-lite")
    again = generate_request({"model": "r", "messages": [*HELLO["messages"], told["choices"][0]["message"]]}, target())
    assert again["contents"][1]["parts"] == [{"text": "1+1 equals 2.", "thoughtSignature": "EjQKMgEM"}]


def _provider() -> Any:
    return open_provider(ProviderConfig(kind="gemini"), KEY)


CHAT = (
    "messages role content type text tool_calls function arguments tools tool_choice stop stream response_format "
    "image_url url extra_content google thought_signature user assistant tool system id name tool_call_id input"
)
EVENT = (
    "candidates content parts text thought functionCall name args finishReason usageMetadata promptTokenCount error "
    "inlineData mimeType data promptFeedback blockReason responseId modelVersion thoughtSignature embeddings values"
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(body=objects(CHAT))
def test_any_json_as_a_request_is_said_or_refused(body: dict[str, Any]) -> None:
    for operation in ("chat", "embeddings"):
        refused = None
        try:
            assert _provider().build(operation, body, target()).body
        except Fault as fault:
            refused = fault.kind
        assert refused in (None, "bad_request")


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=event_streams(EVENT), cut=st.integers(1, 50))
def test_any_stream_is_read_or_a_fault(data: bytes, cut: int) -> None:
    reader = _provider().reader({})
    for piece in pieces(data, cut):
        reader.feed(piece)
    assert reader.received >= 0
    assert reader.fault is None or isinstance(reader.fault, Fault)


@settings(max_examples=EXAMPLES, deadline=None)
@given(body=documents(EVENT), status=st.integers(400, 599))
def test_any_reply_is_read_or_a_fault(body: bytes, status: int) -> None:
    for operation in ("chat", "embeddings"):
        try:
            reply = _provider().reply(operation, body)
        except Fault:
            continue
        assert json.loads(reply.body)
    assert isinstance(_provider().fault(status, [], body), Fault)


@settings(max_examples=EXAMPLES, deadline=None)
@given(text=TEXT | st.just(""), calls=st.lists(st.tuples(NAMES, ARGUMENTS), max_size=3))
def test_an_answer_sent_back_is_what_the_model_said(text: str, calls: list[Any]) -> None:
    parts: list[dict[str, Any]] = [{"text": text}] if text else []
    for number, (name, arguments) in enumerate(calls):
        parts.append({"functionCall": {"id": f"c{number}", "name": name, "args": arguments}})
        if number == 0:
            parts[-1]["thoughtSignature"] = "c2ln"
    body = {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}]}
    reply = json.loads(_provider().reply("chat", json.dumps(body).encode()).body)
    said = reply["choices"][0]["message"]
    back = generate_request({"model": "r", "messages": [HELLO["messages"][0], said]}, target())
    turns = back["contents"][1:]
    assert (turns[0]["parts"] if turns else []) == parts
