"""The dialect of Claude clients: requests to chat, replies and streams back, errors, and nonsense."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nonsense import ARGUMENTS, EXAMPLES, JSON, NAMES, TEXT, objects
from tests.support.provider_calls import PIXEL, target

from llmops.gateway.calls import Fault
from llmops.gateway.chat import plain
from llmops.gateway.config import ProviderConfig
from llmops.gateway.dialects import open_dialect
from llmops.gateway.dialects.messages.request import chat_request
from llmops.gateway.providers import open_provider
from llmops.gateway.providers.anthropic.request import messages_request
from llmops.gateway.sse import Splitter

MESSAGES = open_dialect("messages")
HELLO: dict[str, Any] = {"model": "r", "max_tokens": 99, "messages": [{"role": "user", "content": "Hello"}]}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
TOOL = {"name": "get_weather", "description": "d", "input_schema": {"type": "object", "properties": {}}}


def said(**more: Any) -> dict[str, Any]:
    """As a provider of OpenAI's format is told."""
    return plain(chat_request({**HELLO, **more}))


def test_a_conversation_with_everything() -> None:
    chat = said(
        system=[{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Or not."}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}, IMAGE]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "signed", "signature": "by Anthropic"},
                    {"type": "text", "text": "Two calls."},
                    {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"at": "Paris"}},
                    {"type": "tool_use", "id": "b", "name": "get_weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": "sunny"},
                    {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "rain"}, IMAGE]},
                    {"type": "text", "text": "And so?", "cache_control": {"type": "ephemeral"}},
                ],
            },
            {"role": "system", "content": "Now in French."},
        ],
        tools=[{**TOOL, "cache_control": {"type": "ephemeral"}}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        stop_sequences=["END"],
        temperature=0.3,
        metadata={"user_id": "u1"},
        thinking={"type": "enabled", "budget_tokens": 5000},
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}},
        stream=True,
    )
    url = f"data:image/png;base64,{PIXEL}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    assert chat["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Or not."}]},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}, picture]},
        {
            "role": "assistant",
            "content": "Two calls.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"at":"Paris"}'}},
                {"id": "b", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        {"role": "tool", "tool_call_id": "b", "content": "rain"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Pictures of the tool result b:"},
                picture,
                {"type": "text", "text": "And so?"},
            ],
        },
        {"role": "system", "content": "Now in French."},
    ]
    function = {"name": "get_weather", "parameters": TOOL["input_schema"], "description": "d"}
    assert chat["tools"] == [{"type": "function", "function": function}]
    assert (chat["tool_choice"], chat["parallel_tool_calls"]) == ("required", False)
    assert (chat["stop"], chat["temperature"], chat["user"]) == (["END"], 0.3, "u1")
    assert (chat["reasoning_effort"], chat["max_completion_tokens"]) == ("medium", 99)
    assert chat["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (chat["stream"], chat["stream_options"]) == (True, {"include_usage": True})


@pytest.mark.parametrize(
    ("asked", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, "high"),
        ({"thinking": {"type": "adaptive"}}, "medium"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, "xhigh"),
        ({"thinking": {"type": "disabled"}}, None),
        ({}, None),
    ],
)
def test_thinking_becomes_effort(asked: dict[str, Any], effort: str | None) -> None:
    assert said(**asked).get("reasoning_effort") == effort


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"model": 3}, "model"),
        ({"messages": "hi"}, "messages"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"speed": "fast"}, "speed"),
        ({"tools": [{"type": "web_search_20260318", "name": "web_search"}]}, "tools.0.type"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}
                ]
            },
            "messages.0.content.0.source.type",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
            "messages.0.content.0.type",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ],
)
def test_what_only_anthropic_can_do_is_told_by_name(wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(Fault) as caught:
        said(**wrong)
    assert (caught.value.kind, caught.value.status, caught.value.param) == ("bad_request", 400, param)


def completion(message: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **more}
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    return {"id": "chatcmpl-1", "model": "gpt-5", "choices": [choice], "usage": usage}


def test_a_reply_with_everything() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    told = completion({"content": "Hi.", "reasoning_content": "Hm.", "tool_calls": [call]}, "tool_calls")
    assert MESSAGES.from_chat(told, HELLO) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "gpt-5",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "text", "text": "Hi."},
            {"type": "tool_use", "id": "c", "name": "f", "input": {"x": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 13,
            "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 2,
            "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 3},
        },
    }


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("new", "end_turn")],
)
def test_finish_reasons(finish: str, reason: str) -> None:
    assert MESSAGES.from_chat(completion({"content": "x"}, finish), HELLO)["stop_reason"] == reason


def test_a_stop_sequence_is_told_where_the_server_names_it() -> None:
    told = completion({"content": "x"}, stop_reason="END")
    reply = MESSAGES.from_chat(told, {**HELLO, "stop_sequences": ["END"]})
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("stop_sequence", "END")


def test_broken_arguments_are_kept_as_they_are() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": '}}
    reply = MESSAGES.from_chat(completion({"content": None, "tool_calls": [call]}, "length"), HELLO)
    assert reply["content"] == [{"type": "tool_use", "id": "c", "name": "f", "input": {"INVALID_JSON": '{"x": '}}]


def test_a_refusal_is_a_text_and_a_reason() -> None:
    reply = MESSAGES.from_chat(completion({"content": None, "refusal": "I can't."}, "content_filter"), HELLO)
    assert reply["content"] == [{"type": "text", "text": "I can't."}]
    assert reply["stop_details"] == {"type": "refusal", "category": None, "explanation": "I can't."}


def delta(told: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"id": "x", "model": "gpt-5", "choices": [{"index": 0, "delta": told, "finish_reason": finish}]}


def events(data: bytes) -> list[dict[str, Any]]:
    found = [(name.decode(), json.loads(told)) for name, told in Splitter().feed(data)]
    assert all(name == told["type"] for name, told in found)
    return [told for _, told in found]


def test_a_stream_keeps_anthropics_order() -> None:
    writer = MESSAGES.writer(HELLO)
    calls = [
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
    ]
    chunks = [
        delta({"role": "assistant", "content": ""}),
        delta({"reasoning_content": "Hm"}),
        delta({"reasoning_content": "."}),
        delta({"content": "Hi"}),
        *(delta(call) for call in calls),
        delta({}, "tool_calls"),
        {"choices": [], "usage": completion({})["usage"]},
    ]
    data = b"".join(writer.feed([chunk]) for chunk in chunks) + writer.end()
    found = events(data)
    assert [event["type"].removeprefix("content_block_") for event in found] == [
        "message_start",
        *("start", "delta", "delta", "stop"),
        *("start", "delta", "stop"),
        *("start", "delta", "delta", "stop"),
        *("start", "delta", "stop"),
        "message_delta",
        "message_stop",
    ]
    starts = [event["content_block"]["type"] for event in found if event["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use", "tool_use"]
    assert [event["index"] for event in found if event["type"] == "content_block_stop"] == [0, 1, 2, 3]
    last = found[-2]
    assert last["delta"] == {"stop_reason": "tool_use", "stop_sequence": None, "stop_details": None}
    assert (last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (13, 7)
    assert found[0]["message"]["model"] == "gpt-5"


def test_a_stream_that_said_nothing_is_still_a_message() -> None:
    found = events(MESSAGES.writer(HELLO).end())
    assert [event["type"] for event in found] == ["message_start", "message_delta", "message_stop"]


def test_signed_thinking_is_closed_by_its_signature() -> None:
    writer = MESSAGES.writer(HELLO)
    block = {"type": "thinking", "thinking": "Hm.", "signature": "s1g"}
    data = writer.feed([delta({"reasoning_content": "Hm."}), delta({"thinking_blocks": [block]})]) + writer.end()
    deltas = [event["delta"] for event in events(data) if event["type"] == "content_block_delta"]
    assert deltas == [
        {"type": "thinking_delta", "thinking": "Hm."},
        {"type": "signature_delta", "signature": "s1g"},
    ]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("rate_limited", "slow", 429), "rate_limit_error"),
        (Fault("overloaded", "busy", 503), "overloaded_error"),
        (Fault("bad_request", "no", 400), "invalid_request_error"),
        (Fault("bad_request", "no", 422), "invalid_request_error"),
        (Fault("unauthenticated", "key", 401), "authentication_error"),
        (Fault("cut", "gone", 502), "api_error"),
    ],
)
def test_errors(fault: Fault, kind: str) -> None:
    told = json.loads(MESSAGES.error(fault, "req_1"))
    assert told == {"type": "error", "error": {"type": kind, "message": fault.message}, "request_id": "req_1"}
    assert events(MESSAGES.writer(HELLO).fault(fault))[0]["error"] == told["error"]


REQUEST = (
    "messages role content type text tool_use tool_result input id name tools tool_choice stop_sequences stream system "
    "image source base64 media_type data url thinking signature output_config format schema user assistant max_tokens"
)
CHUNK = (
    "choices delta content tool_calls index function arguments name id usage prompt_tokens finish_reason model message "
    "reasoning_content thinking_blocks refusal prompt_tokens_details cached_tokens extra_content"
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(body=objects(REQUEST))
def test_any_json_as_a_request_is_said_or_refused(body: dict[str, Any]) -> None:
    refused = None
    try:
        json.dumps(MESSAGES.to_chat({**HELLO, **body}))
    except Fault as fault:
        refused = fault.kind
    assert refused in (None, "bad_request")


@settings(max_examples=EXAMPLES, deadline=None)
@given(reply=objects(CHUNK), chunks=st.lists(objects(CHUNK), max_size=4), request=objects(REQUEST))
def test_any_chunks_are_said_or_a_fault(reply: Any, chunks: list[Any], request: Any) -> None:
    faults = []
    writer = MESSAGES.writer(request)
    for call in (lambda: MESSAGES.from_chat(reply, request), lambda: writer.feed(chunks), writer.end):
        try:
            call()
        except Fault as fault:
            faults.append(fault.kind)
    assert set(faults) <= {"invalid"}


BLOCKS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, TEXT),
    st.just(IMAGE),
    st.just({"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}),
)
CALLS = st.lists(st.tuples(NAMES, ARGUMENTS, TEXT), min_size=1, max_size=3)


@settings(max_examples=EXAMPLES, deadline=None)
@given(system=TEXT, turns=st.lists(st.tuples(st.lists(BLOCKS, min_size=1, max_size=3), TEXT, CALLS), max_size=3))
def test_a_conversation_survives_chat(system: str, turns: list[Any]) -> None:
    """messages -> chat -> messages keeps texts, pictures, calls and results, in order."""
    messages: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (asked, text, calls) in enumerate(turns):
        ids = [f"t{number}_{index}" for index in range(len(calls))]
        uses = [
            {"type": "tool_use", "id": id_, "name": name, "input": arguments}
            for id_, (name, arguments, _) in zip(ids, calls, strict=True)
        ]
        messages.append({"role": "user", "content": [*results, *asked]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": text}, *uses]})
        results = [
            {"type": "tool_result", "tool_use_id": id_, "content": [{"type": "text", "text": result}]}
            for id_, (_, _, result) in zip(ids, calls, strict=True)
        ]
    messages.append({"role": "user", "content": [*results, {"type": "text", "text": "So?"}]})
    body = {"model": "r", "max_tokens": 50, "system": [{"type": "text", "text": system}], "messages": messages}
    back = messages_request(chat_request(body), target("m"))
    assert back == {**body, "model": "m"}


def test_what_only_anthropic_knows_survives_chat_and_reaches_nobody_else() -> None:
    cached = {"type": "ephemeral"}
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "by Anthropic"}
    use = {"type": "tool_use", "id": "a", "name": "get_weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "no"}], "is_error": True}
    body = {
        **HELLO,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": cached}]},
            {"role": "assistant", "content": [thinking, {"type": "redacted_thinking", "data": "x"}, use]},
            {"role": "user", "content": [{**result, "cache_control": cached}]},
        ],
        "tools": [{**TOOL, "cache_control": cached}],
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "max"},
        "cache_control": cached,
    }
    told = chat_request(body)
    assert messages_request(told, target("m")) == {**body, "model": "m"}
    openai = open_provider(ProviderConfig(kind="openai"), None).build("chat", told, target("m")).body
    assert json.loads(openai)["reasoning_effort"] == "max"
    for name in (b"cache_control", b"by Anthropic", b"redacted", b"is_error", b"adaptive", b"output_config"):
        assert name not in openai


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(content=JSON)
def test_any_content_is_said_or_refused(content: Any) -> None:
    for role in ("user", "assistant", "system"):
        refused = None
        try:
            said(messages=[{"role": role, "content": content}])
        except Fault as fault:
            refused = fault.kind
        assert refused in (None, "bad_request")
