"""The Responses API over chat: requests there, whole and streamed answers back, and the events' order."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response
from tests.support.json_values import JSON, objects, patiently, thoroughly

from llmops.gateway.assemble import assembled
from llmops.gateway.calls import Fault
from llmops.gateway.dialects import open_dialect
from llmops.gateway.sse import Splitter

RESPONSES = open_dialect("responses")
WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-z][a-z_]{0,10}", fullmatch=True)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FIELDS = (
    *("input", "instructions", "tools", "tool_choice", "text", "format", "type", "role", "content", "stream"),
    *("reasoning", "include", "output", "call_id", "name", "arguments", "image_url", "schema", "max_output_tokens"),
)
KINDS = (
    *("message", "function_call", "function_call_output", "reasoning", "user", "assistant", "input_text"),
    *("input_image", "input_file", "function", "custom", "allowed_tools", "json_schema", "grammar", "auto"),
)


def fault_of(body: dict[str, Any]) -> Fault:
    with pytest.raises(Fault) as caught:
        RESPONSES.to_chat(body)
    return caught.value


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_request_with_everything() -> None:
    body = {
        "model": "r",
        "instructions": "be kind",
        "input": [
            {"role": "user", "content": "hi"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ho"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": True, "description": None}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "max_output_tokens": 50,
        "temperature": 0.1,
        "stream": True,
        "store": True,
        "include": ["reasoning.encrypted_content"],
        "top_k": 4,
    }
    assert RESPONSES.to_chat(body) == {
        "model": "r",
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "ho"}],
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
        "verbosity": "low",
        "reasoning_effort": "low",
        "max_completion_tokens": 50,
        "temperature": 0.1,
        "stream": True,
        "top_k": 4,
    }


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": [{"type": "computer_call_output"}]}, "input.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input.0.content.0.file_id",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input.0.content.0"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"stream": "yes"}, "stream"),
        ({"input": [{"role": [], "content": "x"}]}, "input.0.role"),
        ({"input": [{"type": {}, "role": "user"}]}, "input.0.type"),
        ({"input": [{"role": "user", "content": [{"type": []}]}]}, "input.0.content.0.type"),
        ({"tools": [{"type": []}]}, "tools.0.type"),
        ({"tool_choice": {"type": []}}, "tool_choice.type"),
        ({"text": {"format": {"type": []}}}, "text.format.type"),
    ],
)
def test_what_only_openai_itself_can_do_is_refused_by_name(more: dict[str, Any], param: str) -> None:
    fault = fault_of({"model": "r", "input": "x", **more})
    assert (fault.kind, fault.status, fault.param) == ("bad_request", 400, param)
    assert param.split(".", maxsplit=1)[0] in fault.message


def test_fields_of_other_apis_do_not_slip_past_what_was_reserved() -> None:
    asked = RESPONSES.to_chat({"model": "r", "input": "x", "n": 50, "best_of": 9, "n_cmpl": 3, "max_tokens": 9})
    assert asked == {"model": "r", "messages": [{"role": "user", "content": "x"}]}


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Chat messages that both APIs can say."""
    messages: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 4))):
        image = {"type": "image_url", "image_url": {"url": f"https://example.org/{number}.png", "detail": "low"}}
        text = {"type": "text", "text": draw(WORDS)}
        content = draw(st.sampled_from([[text], [text, image], [image, text]]))
        messages.append({"role": draw(st.sampled_from(["user", "developer"])), "content": content})
        calls = [
            {"id": f"c{number}{index}", "type": "function", "function": {"name": name, "arguments": draw(WORDS)}}
            for index, name in enumerate(draw(st.lists(NAMES, max_size=2)))
        ]
        said = {"role": "assistant", "content": draw(WORDS) if not calls or draw(st.booleans()) else None}
        messages.append({**said, "tool_calls": calls} if calls else said)
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": draw(WORDS)} for call in calls]
    return messages


def as_items(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same conversation as a client of the Responses API sends it."""
    items: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            items.append(
                {
                    "type": "function_call_output",
                    "call_id": message["tool_call_id"],
                    "output": message["content"],
                }
            )
        elif message["role"] == "assistant":
            if message["content"] is not None:
                items.append({"role": "assistant", "content": message["content"]})
            items += [
                {"type": "function_call", "call_id": call["id"], **call["function"]}
                for call in message.get("tool_calls", ())
            ]
        else:
            content = [
                {"type": "input_text", "text": part["text"]}
                if part["type"] == "text"
                else {"type": "input_image", "image_url": part["image_url"]["url"], "detail": "low"}
                for part in message["content"]
            ]
            items.append({"type": "message", "role": message["role"], "content": content})
    return items


@patiently
@given(messages=conversations())
def test_a_conversation_survives_the_way_through_responses(messages: list[dict[str, Any]]) -> None:
    assert RESPONSES.to_chat({"model": "r", "input": as_items(messages)})["messages"] == messages


# --- answers ---------------------------------------------------------------------------------------------------------


def chat_reply(message: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    return {
        "id": "chatcmpl-7",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
    }


def as_chunks(reply: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """The reply as a server streams it, its texts in pieces of `size` characters."""
    base = {"id": reply["id"], "created": reply["created"], "model": reply["model"]}
    message = reply["choices"][0]["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for name in ("reasoning_content", "content", "refusal"):
        text = message.get(name) or ""
        deltas += [{name: text[start : start + size]} for start in range(0, len(text), size)]
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        head = {"index": index, "id": call["id"], "type": "function"}
        deltas.append({"tool_calls": [{**head, "function": {"name": function["name"], "arguments": ""}}]})
        text = function["arguments"]
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": text[start : start + size]}}]}
            for start in range(0, len(text), size)
        ]
    chunks = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    finish = reply["choices"][0]["finish_reason"]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return [*chunks, {**base, "choices": [], "usage": reply["usage"]}]


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Köln"}'}}
REPLIES = [
    chat_reply({"content": "Hello, world"}),
    chat_reply({"content": "Hello", "reasoning_content": "I think so"}),
    chat_reply({"content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]}, "tool_calls"),
    chat_reply({"content": "I'll look", "tool_calls": [CALL]}, "tool_calls"),
    chat_reply({"content": None, "refusal": "I won't"}),
    chat_reply({"content": "too lo"}, "length"),
    chat_reply({"content": ""}, "content_filter"),
]


def streamed(reply: dict[str, Any], request: dict[str, Any], size: int = 4) -> list[dict[str, Any]]:
    writer = RESPONSES.writer(request)
    raw = b"".join(writer.feed([chunk]) for chunk in as_chunks(reply, size)) + writer.end()
    events = []
    for name, data in Splitter().feed(raw):
        events.append(orjson.loads(data))
        assert events[-1]["type"] == name.decode()
    return events


@pytest.mark.parametrize("reply", REPLIES)
def test_a_streamed_response_ends_as_the_whole_one(reply: dict[str, Any]) -> None:
    request = {"model": "r", "input": "x", "temperature": 0.5}
    whole = RESPONSES.from_chat(reply, request)
    Response.model_validate(whole, strict=False)
    assert whole["temperature"] == 0.5
    assert whole["usage"]["input_tokens_details"]["cached_tokens"] == 2
    last = streamed(reply, request)[-1]
    assert last["type"] == f"response.{whole['status']}"
    for value in (whole, last["response"]):
        value.pop("completed_at", None)
    assert last["response"] == whole


def test_what_a_response_says_of_text_calls_and_reasoning() -> None:
    response = Response.model_validate(RESPONSES.from_chat(REPLIES[1], {"model": "r"}))
    assert (response.output_text, response.status, response.id) == ("Hello", "completed", "resp_7")
    assert response.output[0].summary[0].text == "I think so"
    calls = RESPONSES.from_chat(REPLIES[2], {})["output"]
    assert [(call["call_id"], call["name"], call["arguments"]) for call in calls] == [
        ("c1", "f", '{"city": "Köln"}'),
        ("c2", "f", '{"city": "Köln"}'),
    ]
    cut = RESPONSES.from_chat(REPLIES[5], {})
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert cut["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("reply", REPLIES)
def test_events_come_in_order_and_their_pieces_make_the_whole(reply: dict[str, Any]) -> None:
    events = streamed(reply, {"model": "r"})
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    opened: dict[str, str] = {}
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            opened[event["item"]["id"]] = ""
            assert event["output_index"] == len(opened) - 1
        elif kind.endswith(".delta"):
            opened[event["item_id"]] += event["delta"]
        elif kind.endswith(("_text.done", "refusal.done", "arguments.done")):
            whole = event.get("text", event.get("refusal", event.get("arguments")))
            assert opened[event["item_id"]] == whole
        elif kind == "response.output_item.done":
            opened.pop(event["item"]["id"])
            opened[f"done {len(opened)}"] = ""
    assert all(name.startswith("done") for name in opened)


def test_calls_whose_pieces_come_in_turns_stay_apart() -> None:
    writer = RESPONSES.writer({})
    deltas = [
        [{"index": index, "id": f"c{index}", "function": {"name": "f", "arguments": ""}} for index in (0, 1)],
        *[[{"index": index % 2, "function": {"arguments": str(index)}}] for index in range(6)],
    ]
    for calls in deltas:
        writer.feed([{"id": "x", "choices": [{"index": 0, "delta": {"tool_calls": calls}}]}])
    last = orjson.loads(Splitter().feed(writer.end())[-1][1])
    assert [item["arguments"] for item in last["response"]["output"]] == ["024", "135"]


def test_a_fault_in_the_stream_is_told_to_both_kinds_of_client() -> None:
    writer = RESPONSES.writer({"model": "r"})
    writer.feed(as_chunks(REPLIES[0], 4)[:3])
    events = [orjson.loads(data) for _, data in Splitter().feed(writer.fault(Fault("cut", "it broke")))]
    assert [event["type"] for event in events] == ["response.failed", "error"]
    assert events[0]["response"]["error"] == {"code": "server_error", "message": "it broke"}
    assert events[1]["message"] == events[1]["error"]["message"] == "it broke"
    alone = Splitter().feed(RESPONSES.writer({}).fault(Fault("cut", "it broke")))
    assert [name for name, _ in alone] == [b"error"]


@pytest.mark.parametrize("reply", REPLIES)
def test_the_log_gets_the_whole_response_even_of_a_cut_stream(reply: dict[str, Any]) -> None:
    writer = RESPONSES.writer({"model": "r"})
    raw = b"".join(writer.feed([chunk]) for chunk in as_chunks(reply, 3))
    end = writer.end()
    whole = assembled("responses", raw + end)
    assert whole["status"] in ("completed", "incomplete")
    cut = assembled("responses", raw)
    content = reply["choices"][0]["message"]["content"]
    if content:
        texts = [item["content"][0]["text"] for item in cut["output"] if item["type"] == "message"]
        assert texts == [content]


# --- anything at all -------------------------------------------------------------------------------------------------


@thoroughly
@given(body=st.one_of(objects(FIELDS, KINDS), st.dictionaries(st.text(max_size=5), JSON, max_size=3)))
def test_no_request_breaks_the_translation(body: dict[str, Any]) -> None:
    try:
        request = RESPONSES.to_chat(body)
    except Fault as fault:
        kind = fault.kind
    else:
        kind = "bad_request"
        assert all(isinstance(message, dict) and message["role"] for message in request["messages"])
    assert kind == "bad_request"


CHUNK_FIELDS = (
    *("choices", "delta", "message", "content", "tool_calls", "index", "id", "function", "custom", "name"),
    *("arguments", "finish_reason", "usage", "refusal", "reasoning_content", "logprobs", "prompt_tokens", "type"),
)


@thoroughly
@given(values=st.lists(objects(CHUNK_FIELDS, ("stop", "length", "custom")), max_size=5))
def test_no_reply_or_chunk_breaks_the_translation(values: list[dict[str, Any]]) -> None:
    writer = RESPONSES.writer({"model": "r"})
    kinds = set()
    for value in values:
        for act in (lambda value=value: RESPONSES.from_chat(value, {}), lambda value=value: writer.feed([value])):
            try:
                act()
            except Fault as fault:
                kinds.add(fault.kind)
    assert kinds <= {"invalid"}
    assert writer.end().endswith(b"\n\n")


@thoroughly
@given(raw=st.one_of(st.binary(max_size=200), st.lists(objects((*CHUNK_FIELDS, "response", "item", "output_index")))))
def test_no_bytes_break_what_the_log_gets(raw: Any) -> None:
    data = raw if isinstance(raw, bytes) else b"".join(b"data: " + orjson.dumps(value) + b"\n\n" for value in raw)
    for operation in ("chat", "completions", "responses", "messages", "embeddings"):
        assert isinstance(assembled(operation, data), dict)
