"""Anthropic's provider against a strict server, against the examples of its documentation, and against nonsense."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nonsense import ARGUMENTS, EXAMPLES, NAMES, TEXT, documents, event_streams, objects
from tests.support.provider_calls import (
    PIXEL,
    WEATHER,
    ask,
    ask_stream,
    fault_of,
    pieces,
    provider_of,
    target,
)
from tests.support.upstreams.anthropic import AnthropicServer, signature_of
from tests.support.upstreams.wire import KEY, Answer, Call, running

from llmops.gateway.calls import Fault, Usage
from llmops.gateway.config import ProviderConfig
from llmops.gateway.providers import open_provider
from llmops.gateway.providers.anthropic import Anthropic
from llmops.gateway.providers.anthropic.reply import read_usage
from llmops.gateway.providers.anthropic.request import messages_request

HELLO: dict[str, Any] = {"model": "r", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[AnthropicServer]:
    with running(AnthropicServer) as server:
        yield server


def everything() -> dict[str, Any]:
    """A conversation with all that chat can say."""
    calls = [
        {"id": "call:1", "type": "function", "function": {"name": "get_weather", "arguments": '{"location":"Paris"}'}},
        {"id": "call:2", "type": "function", "function": {"name": "get_weather", "arguments": '{"location":"Rome"}'}},
    ]
    return {
        "model": "r",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Paris and Rome?"},
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call:1", "content": "sunny"},
            {"role": "user", "content": "And this?"},
            {"role": "tool", "tool_call_id": "call:2", "content": [{"type": "text", "text": "rain"}]},
            {"role": "developer", "content": "Answer in French."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "See:"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                    {"type": "image_url", "image_url": {"url": "https://example.org/cat.jpg", "detail": "low"}},
                ],
            },
        ],
        "tools": [WEATHER],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "stop": ["END"],
        "max_completion_tokens": 300,
        "user": "someone",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    }


def test_a_conversation_with_everything_is_accepted_and_keeps_its_order(server: AnthropicServer) -> None:
    provider = provider_of("anthropic", server)
    ask(provider, server, "chat", everything(), target())
    sent = server.requests[-1].body
    assert sent["system"] == [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Answer in French."}]
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "user"]
    last = sent["messages"][-1]["content"]
    assert [block["type"] for block in last] == ["tool_result", "tool_result", "text", "text", "image", "image"]
    assert [block["tool_use_id"] for block in last[:2]] == ["call_1", "call_2"]
    assert last[4]["source"] == {"type": "base64", "media_type": "image/png", "data": PIXEL}
    assert last[5]["source"] == {"type": "url", "url": "https://example.org/cat.jpg"}
    assert sent["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert sent["output_config"]["format"] == {"type": "json_schema", "schema": {"type": "object"}}
    assert (sent["max_tokens"], sent["metadata"]) == (300, {"user_id": "someone"})
    assert sent["stop_sequences"] == ["END"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", {"type": "any"}),
        ("none", {"type": "none"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"type": "tool", "name": "get_weather"}),
    ],
)
def test_tool_choices(server: AnthropicServer, choice: Any, expected: Any) -> None:
    ask(
        provider_of("anthropic", server), server, "chat", {**HELLO, "tools": [WEATHER], "tool_choice": choice}, target()
    )
    assert server.requests[-1].body["tool_choice"] == expected


def test_allowed_tools_leave_out_the_others() -> None:
    other = json.loads(json.dumps(WEATHER).replace("get_weather", "other"))
    named = [{"type": "function", "function": {"name": "other"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": named}}
    said = messages_request({**HELLO, "tools": [WEATHER, other], "tool_choice": choice}, target())
    assert [tool["name"] for tool in said["tools"]] == ["other"]
    assert said["tool_choice"] == {"type": "auto"}


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "config"),
    [
        ("claude-opus-5-5", "high", {"type": "adaptive", "display": "summarized"}, {"effort": "high"}),
        ("claude-opus-4-6", "minimal", {"type": "adaptive", "display": "summarized"}, {"effort": "low"}),
        ("claude-opus-4-5-20251101", "low", {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-sonnet-4-20250514", "high", {"type": "enabled", "budget_tokens": 3276}, None),
        ("claude-3-7-sonnet-latest", "max", {"type": "enabled", "budget_tokens": 3891}, None),
        ("my-own-claude", "xhigh", {"type": "adaptive", "display": "summarized"}, {"effort": "xhigh"}),
        ("claude-opus-5", "none", {"type": "disabled"}, None),
    ],
)
def test_reasoning_effort(server: AnthropicServer, model: str, effort: str, thinking: Any, config: Any) -> None:
    body = {**HELLO, "reasoning_effort": effort}
    ask(provider_of("anthropic", server), server, "chat", body, target(model))
    assert server.requests[-1].body["thinking"] == thinking
    assert server.requests[-1].body.get("output_config") == config


@pytest.mark.parametrize("model", ["claude-sonnet-4-5-20250929", "claude-opus-5-5"])
@pytest.mark.parametrize("keeps", [True, False])
def test_a_client_that_drops_the_thinking_can_still_use_tools(server: AnthropicServer, model: str, keeps: bool) -> None:
    server.script(Answer(thinking="Hm.", tools=(Call("get_weather", {"location": "Rome"}, "a"),)))
    body = {**HELLO, "tools": [WEATHER], "reasoning_effort": "low"}
    provider = provider_of("anthropic", server)
    message = json.loads(ask(provider, server, "chat", body, target(model)).body)["choices"][0]["message"]
    if not keeps:
        message = {name: message[name] for name in ("role", "content", "tool_calls")}
    result = {"role": "tool", "tool_call_id": "a", "content": "sunny"}
    ask(provider, server, "chat", {**body, "messages": [*HELLO["messages"], message, result]}, target(model))
    thinks = keeps or model == "claude-opus-5-5"
    assert ("thinking" in server.requests[-1].body) is thinks


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"seed": 1}, "seed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"min_p": 0.1}, "min_p"),
        ({"temperature": 1.5}, "temperature"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type"),
        ({"max_tokens": 0}, "max_completion_tokens"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages.0.content.0",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b"}}]}]},
            "messages.0.content.0",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:image/bmp;base64,AAAA"}}],
                    }
                ]
            },
            "messages.0.content.0",
        ),
    ],
)
def test_what_anthropic_cannot_do_is_told_by_name(wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(Fault) as caught:
        messages_request({**HELLO, **wrong}, target())
    assert (caught.value.kind, caught.value.status, caught.value.param) == ("bad_request", 400, param)


@pytest.mark.parametrize(
    "harmless",
    [
        {"n": 1, "logprobs": False, "frequency_penalty": 0, "logit_bias": {}, "stream_options": None},
        {"store": True, "metadata": {"a": "b"}, "prompt_cache_key": "k", "seed": None, "tools": []},
    ],
)
def test_what_asks_for_nothing_is_left_out(server: AnthropicServer, harmless: dict[str, Any]) -> None:
    ask(provider_of("anthropic", server), server, "chat", {**HELLO, **harmless}, target())
    assert server.requests[-1].body.keys() == {"model", "messages", "max_tokens"}


def test_the_target_names_the_model_and_bounds_the_output(server: AnthropicServer) -> None:
    provider, to = provider_of("anthropic", server), target("claude-haiku-5-5", max_output_tokens=50)
    for operation, asked in (("chat", None), ("chat", 900), ("messages", 900), ("messages", None)):
        body = {**HELLO, **({} if asked is None else {"max_tokens": asked})}
        ask(provider, server, operation, body, to)  # type: ignore[arg-type]
        assert server.requests[-1].body["max_tokens"] == 50
        assert server.requests[-1].body["model"] == "claude-haiku-5-5"


@pytest.mark.parametrize("choice", [{"speed": "fast"}, {"inference_geo": "global"}])
def test_what_costs_more_or_moves_data_is_the_operators_choice(choice: dict[str, Any]) -> None:
    with pytest.raises(Fault) as caught:
        _provider().build("messages", {**HELLO, **choice}, target())
    assert (caught.value.kind, caught.value.param) == ("bad_request", next(iter(choice)))


def test_an_empty_tool_result_has_no_content(server: AnthropicServer) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": ""}}
    turns = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "a", "content": ""}]
    ask(provider_of("anthropic", server), server, "chat", {**HELLO, "messages": [*HELLO["messages"], *turns]}, target())
    assert server.requests[-1].body["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "a"}]


def test_tokens_are_counted_by_the_upstream(server: AnthropicServer) -> None:
    provider = open_provider(ProviderConfig(kind="anthropic", url=server.url), KEY)
    assert isinstance(provider, Anthropic)
    request = provider.count_tokens(HELLO, target())
    connection = http.client.HTTPConnection(str(urlsplit(server.url).netloc), timeout=60)
    connection.request(
        "POST", request.path, request.body, {name.decode(): value.decode() for name, value in request.headers}
    )
    response = connection.getresponse()
    told = json.loads(response.read())
    connection.close()
    assert (response.status, told) == (200, {"input_tokens": server.requests[-1].input_tokens})


def test_a_whole_answer_with_thinking_and_tools(server: AnthropicServer) -> None:
    answer = Answer(thinking="Let me see.", tools=(Call("get_weather", {"location": "Paris"}),), cached=3)
    server.script(answer)
    body = {**HELLO, "tools": [WEATHER], "reasoning_effort": "low"}
    reply = ask(provider_of("anthropic", server), server, "chat", body, target())
    told = json.loads(reply.body)
    message = told["choices"][0]["message"]
    assert message["content"] == "Hello there!"
    assert message["reasoning_content"] == "Let me see."
    assert message["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"location":"Paris"}'}
    assert told["choices"][0]["finish_reason"] == "tool_calls"
    charged = server.ledger[-1]
    assert reply.usage == Usage(charged.input_tokens, charged.output_tokens, cached_tokens=3)
    assert told["usage"]["prompt_tokens"] == charged.input_tokens
    assert told["usage"]["prompt_tokens_details"]["cached_tokens"] == 3

    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"}
    again = {**body, "messages": [*body["messages"], message, result]}
    ask(provider_of("anthropic", server), server, "chat", again, target())
    back = server.requests[-1].body["messages"][1]["content"]
    signed = {"type": "thinking", "thinking": "Let me see.", "signature": signature_of("Let me see.")}
    assert back[0] == signed


@pytest.mark.parametrize("cut", [1, 10, 100_000])
def test_a_stream_with_thinking_and_tools(server: AnthropicServer, cut: int) -> None:
    calls = (Call("get_weather", {"location": "Paris"}, "a"), Call("now", {}, "b"))
    server.script(Answer(thinking="One. Two.", tools=calls, cached=2))
    body = {**HELLO, "tools": [WEATHER], "stream_options": {"include_usage": True}}
    streamed = ask_stream(provider_of("anthropic", server), server, body, target(), cut)
    assert streamed.text() == "Hello there!"
    assert streamed.text("reasoning_content") == "One. Two."
    assert streamed.tool_calls == [
        {"id": "a", "name": "get_weather", "arguments": '{"location": "Paris"}'},
        {"id": "b", "name": "now", "arguments": "{}"},
    ]
    blocks = [block for delta in streamed.deltas for block in delta.get("thinking_blocks", [])]
    assert blocks == [{"type": "thinking", "thinking": "One. Two.", "signature": signature_of("One. Two.")}]
    assert streamed.finish == "tool_calls"
    assert streamed.state.finished
    charged = server.ledger[-1]
    assert streamed.state.usage == Usage(charged.input_tokens, charged.output_tokens, 2, reasoning_tokens=2)
    assert streamed.chunks[-1]["choices"] == []
    assert streamed.chunks[-1]["usage"]["completion_tokens"] == charged.output_tokens
    assert len({chunk["id"] for chunk in streamed.chunks}) == 1


@pytest.mark.parametrize("cut", [3, 100_000])
def test_a_native_stream_is_passed_on_byte_for_byte(server: AnthropicServer, cut: int) -> None:
    answer = Answer(thinking="Hm.", tools=(Call("now", {"a": [1]}),))
    server.script(answer)
    body = {**HELLO, "max_tokens": 100}
    streamed = ask_stream(provider_of("anthropic", server), server, body, target(), cut)
    assert streamed.passed == b"".join(data for data, _ in server.events(server.requests[-1], answer))
    charged = server.ledger[-1]
    assert streamed.state.usage is not None
    assert not streamed.state.usage.estimated
    assert (streamed.state.usage.input_tokens, streamed.state.usage.output_tokens) == (
        charged.input_tokens,
        charged.output_tokens,
    )
    assert streamed.state.model == "claude-opus-5-5"
    assert streamed.state.finished


@pytest.mark.parametrize("native", [True, False])
def test_a_cut_stream_knows_its_input_and_estimates_its_output(server: AnthropicServer, native: bool) -> None:
    server.script(Answer(pieces=("x",) * 20, cut_after=13))
    body = {**HELLO, "max_tokens": 100} if native else {**HELLO, "stream_options": {}}
    streamed = ask_stream(provider_of("anthropic", server), server, body, target())
    usage = streamed.state.usage
    assert not streamed.state.finished
    assert usage is not None
    assert usage.estimated
    assert usage.input_tokens == server.ledger[-1].input_tokens
    assert usage.output_tokens == streamed.state.received == server.ledger[-1].output_tokens == 10


@pytest.mark.parametrize("native", [True, False])
def test_an_error_within_a_stream_is_a_fault_and_not_passed_on(server: AnthropicServer, native: bool) -> None:
    server.script(Answer(error_after=4, error=("overloaded_error", "Overloaded")))
    body = {**HELLO, "max_tokens": 100} if native else {**HELLO, "stream_options": {}}
    streamed = ask_stream(provider_of("anthropic", server), server, body, target())
    fault = streamed.state.fault
    assert fault is not None
    assert (fault.kind, fault.message, fault.retryable) == ("overloaded", "Overloaded", True)
    assert b"Overloaded" not in streamed.passed
    assert not streamed.state.finished


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("refusal", "content_filter"),
        ("stop_sequence", "stop"),
        ("model_context_window_exceeded", "length"),
        ("a_reason_of_next_year", "stop"),
    ],
)
def test_stop_reasons(server: AnthropicServer, stop: str, finish: str) -> None:
    provider = provider_of("anthropic", server)
    server.script(Answer(stop=stop), Answer(stop=stop))
    assert ask(provider, server, "chat", HELLO, target()).finish == finish
    assert ask_stream(provider, server, HELLO, target()).finish == finish


@pytest.mark.parametrize(
    ("answer", "kind", "status", "retry_after_s"),
    [
        (Answer(status=429, error=("rate_limit_error", "slow"), headers={"retry-after": "7"}), "rate_limited", 429, 7),
        (Answer(status=529, error=("overloaded_error", "Overloaded")), "overloaded", 503, None),
        (Answer(status=500, error=("api_error", "Internal server error")), "server_error", 502, None),
        (Answer(status=403, error=("permission_error", "no")), "unauthenticated", 502, None),
        (Answer(status=404, error=("not_found_error", "model: x")), "bad_request", 404, None),
        (Answer(status=413, error=("request_too_large", "big")), "bad_request", 413, None),
        (
            Answer(status=400, error=("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum")),
            "context_too_long",
            400,
            None,
        ),
        (
            Answer(status=400, error=("invalid_request_error", "Your credit balance is too low to access the API.")),
            "rate_limited",
            429,
            3600,
        ),
    ],
)
def test_error_replies(
    server: AnthropicServer, answer: Answer, kind: str, status: int, retry_after_s: float | None
) -> None:
    server.script(answer)
    fault = fault_of(provider_of("anthropic", server), server, "chat", HELLO, target())
    assert (fault.kind, fault.status, fault.retry_after_s) == (kind, status, retry_after_s)


def test_a_wrong_key_is_ours_to_mend_and_not_shown(server: AnthropicServer) -> None:
    fault = fault_of(provider_of("anthropic", server, "sk-wrong"), server, "chat", HELLO, target())
    assert fault.kind == "unauthenticated"
    assert "sk-wrong" not in fault.message


def test_usage_with_both_kinds_of_cache() -> None:
    """Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching (1-hour cache duration)."""
    told = {
        "input_tokens": 2048,
        "cache_read_input_tokens": 1800,
        "cache_creation_input_tokens": 248,
        "output_tokens": 503,
        "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
        "server_tool_use": {"web_search_requests": 2},
        "output_tokens_details": {"thinking_tokens": 400},
    }
    assert read_usage(told) == Usage(4096, 503, 1800, 248, 400, searches=2, cache_write_long_tokens=100)
    assert read_usage({"output_tokens": 600}, read_usage(told)) == Usage(
        4096, 600, 1800, 248, 400, searches=2, cache_write_long_tokens=100
    )


def test_the_documented_stream_of_a_tool_call() -> None:
    """Source: https://platform.claude.com/docs/en/build-with-claude/streaming (tool use)."""
    stream = b"""event: message_start
data: {"type":"message_start","message":{"id":"msg_014p7gG3wDgGV9EUtLvnow3U","type":"message","role":"assistant",\
"model":"claude-opus-4-8","stop_sequence":null,"usage":{"input_tokens":472,"output_tokens":2},"content":[],\
"stop_reason":null}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Okay"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use",\
"id":"toolu_01T1x1fJ34qAmk2tNTrN7Up6","name":"get_weather","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\\"location\\":"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":" \\"San Fra"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"ncisco, CA\\"}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":89}}

event: message_stop
data: {"type":"message_stop"}

"""
    reader = _provider().reader({})
    chunks = [chunk for piece in pieces(stream, 11) for chunk in reader.feed(piece)]
    assert reader.usage == Usage(472, 89)
    assert reader.finished
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]][-1] == "tool_calls"
    arguments = "".join(
        call["function"].get("arguments", "")
        for chunk in chunks[:-1]
        for call in chunk["choices"][0]["delta"].get("tool_calls", [])
    )
    assert json.loads(arguments) == {"location": "San Francisco, CA"}


def _provider() -> Any:
    return open_provider(ProviderConfig(kind="anthropic"), KEY)


CHAT = (
    "messages role content type text tool_calls function arguments tools tool_choice stop stream response_format "
    "image_url url thinking_blocks reasoning_effort user assistant tool system max_tokens id name file"
)
EVENT = (
    "type message usage content content_block index delta id name input text thinking signature stop_reason error "
    "text_delta tool_use input_json_delta partial_json input_tokens output_tokens model thinking_delta signature_delta"
)
KINDS = "message_start content_block_start content_block_delta content_block_stop message_delta message_stop error"


@settings(max_examples=EXAMPLES, deadline=None)
@given(body=objects(CHAT))
def test_any_json_as_a_request_is_said_or_refused(body: dict[str, Any]) -> None:
    for operation in ("chat", "messages"):
        refused = None
        try:
            assert _provider().build(operation, body, target()).body
        except Fault as fault:
            refused = fault.kind
        assert refused in (None, "bad_request")


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=event_streams(EVENT, KINDS), cut=st.integers(1, 50))
def test_any_stream_is_read_or_a_fault(data: bytes, cut: int) -> None:
    for state in (_provider().reader({}), _provider().relay("messages", {})):
        for piece in pieces(data, cut):
            state.feed(piece)
        assert state.received >= 0
        assert state.fault is None or isinstance(state.fault, Fault)


@settings(max_examples=EXAMPLES, deadline=None)
@given(body=documents(EVENT), status=st.integers(400, 599))
def test_any_reply_is_read_or_a_fault(body: bytes, status: int) -> None:
    for operation in ("chat", "messages"):
        with pytest.raises(Fault):
            _provider().reply(operation, body)
    assert isinstance(_provider().fault(status, [(b"retry-after", b"x")], body), Fault)


@settings(max_examples=EXAMPLES, deadline=None)
@given(text=TEXT | st.just(""), thinking=TEXT | st.just(""), calls=st.lists(st.tuples(NAMES, ARGUMENTS), max_size=3))
def test_an_answer_sent_back_is_what_the_model_said(text: str, thinking: str, calls: list[Any]) -> None:
    """Anthropic -> chat -> Anthropic keeps text, thinking with its signature, and tool calls, in order."""
    blocks: list[dict[str, Any]] = []
    if thinking:
        blocks.append({"type": "thinking", "thinking": thinking, "signature": "s1g"})
    if text:
        blocks.append({"type": "text", "text": text})
    for number, (name, arguments) in enumerate(calls):
        blocks.append({"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": arguments})
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": blocks,
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    reply = json.loads(_provider().reply("chat", json.dumps(message).encode()).body)
    said = reply["choices"][0]["message"]
    back = messages_request({"model": "r", "messages": [HELLO["messages"][0], said]}, target())
    turns = back["messages"][1:]
    assert (turns[0]["content"] if turns else []) == blocks
