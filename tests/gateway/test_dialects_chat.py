"""Chat, completions, embeddings and rerank as callers speak them, and how all of them tell an error."""

from __future__ import annotations

from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.json_values import JSON, objects, thoroughly

from llmops.gateway.assemble import assembled
from llmops.gateway.calls import Fault, FaultKind, Operation
from llmops.gateway.dialects import open_dialect
from llmops.gateway.sse import Splitter

OURS: tuple[Operation, ...] = ("chat", "completions", "responses", "embeddings", "rerank")
MESSAGES = [{"role": "user", "content": "hi"}]


def chunk(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": [choice]}


def events(raw: bytes) -> list[Any]:
    return [data if data == b"[DONE]" else orjson.loads(data) for _, data in Splitter().feed(raw)]


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OURS)
@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (Fault("bad_request", "m", 404, code="model_not_found"), "invalid_request_error", "model_not_found"),
        (Fault("bad_request", "m", 400, param="n"), "invalid_request_error", "invalid_request"),
        (Fault("context_too_long", "m", 400), "invalid_request_error", "context_length_exceeded"),
        (Fault("content_filtered", "m", 400), "invalid_request_error", "content_filter"),
        (Fault("unauthenticated", "m", 401, code="invalid_api_key"), "authentication_error", "invalid_api_key"),
        (Fault("unauthenticated", "m", 502), "server_error", "upstream_unauthenticated"),
        (Fault("rate_limited", "m", 429), "rate_limit_error", "rate_limit_exceeded"),
        (Fault("rate_limited", "m", 429, code="insufficient_quota"), "insufficient_quota", "insufficient_quota"),
        (Fault("overloaded", "m", 503), "overloaded_error", "overloaded"),
        (Fault("first_byte_timeout", "m", 504), "server_error", "upstream_timeout"),
    ],
)
def test_errors_are_told_in_openais_words(operation: Operation, fault: Fault, kind: str, code: str) -> None:
    error = orjson.loads(open_dialect(operation).error(fault, "req-1"))["error"]
    assert error == {"message": "m", "type": kind, "param": fault.param, "code": code, "request_id": "req-1"}


def test_every_kind_of_fault_can_be_told() -> None:
    for kind in get_args(FaultKind):
        for operation in OURS:
            assert orjson.loads(open_dialect(operation).error(Fault(kind, "m"), "r"))["error"]["code"]


@pytest.mark.parametrize("operation", ["chat", "completions"])
def test_an_error_in_a_stream_is_an_event_that_clients_raise_on(operation: Operation) -> None:
    raw = open_dialect(operation).writer({}).fault(Fault("cut", "it broke"))
    assert events(raw) == [
        {"error": {"message": "it broke", "type": "server_error", "param": None, "code": "upstream_cut"}}
    ]


# --- chat ------------------------------------------------------------------------------------------------------------


def test_chat_is_the_canonical_format() -> None:
    dialect = open_dialect("chat")
    body = {"model": "m", "messages": MESSAGES, "top_k": 3}
    assert dialect.to_chat(body) is body
    assert dialect.from_chat(body, {}) is body


@pytest.mark.parametrize("asked", [True, False])
def test_the_usage_event_is_for_those_who_asked(asked: bool) -> None:
    writer = open_dialect("chat").writer({"stream_options": {"include_usage": asked}})
    usage = {**chunk(), "choices": [], "usage": {"prompt_tokens": 1}}
    found = events(writer.feed([chunk(content="a"), usage]) + writer.end())
    assert found == [chunk(content="a"), *([usage] if asked else []), b"[DONE]"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": "x"},
        {"messages": ["x"]},
        {"messages": [{"content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": [5]}]},
        {"messages": [{"role": "assistant", "tool_calls": "x"}]},
        {"messages": MESSAGES, "stream": "true"},
        {"messages": MESSAGES, "stream_options": 1},
    ],
)
def test_a_chat_without_its_outline_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(Fault) as caught:
        open_dialect("chat").to_chat(body)
    assert (caught.value.kind, caught.value.status) == ("bad_request", 400)
    assert caught.value.param


# --- completions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["once", ["once"]])
def test_a_prompt_becomes_a_message(prompt: Any) -> None:
    body = {"model": "m", "prompt": prompt, "max_tokens": 4, "logprobs": 2, "best_of": 1, "stop": ["."]}
    assert open_dialect("completions").to_chat(body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "once"}],
        "max_tokens": 4,
        "stop": ["."],
        "logprobs": True,
        "top_logprobs": 2,
    }


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"best_of": 3}, "best_of"),
    ],
)
def test_what_a_chat_model_cannot_complete_is_refused(more: dict[str, Any], param: str) -> None:
    with pytest.raises(Fault) as caught:
        open_dialect("completions").to_chat({"prompt": "a", **more})
    assert (caught.value.kind, caught.value.param) == ("bad_request", param)


def test_a_chat_reply_becomes_a_completion() -> None:
    logprobs = {"content": [{"token": "up", "logprob": -0.5, "top_logprobs": [{"token": "on", "logprob": -1.0}]}]}
    choice = {"index": 0, "message": {"content": "up"}, "finish_reason": "stop", "logprobs": logprobs}
    reply = {"id": "chatcmpl-1", "created": 5, "model": "m", "choices": [choice], "usage": {"prompt_tokens": 1}}
    assert open_dialect("completions").from_chat(reply, {}) == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 5,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "text": "up",
                "finish_reason": "stop",
                "logprobs": {
                    "tokens": ["up"],
                    "token_logprobs": [-0.5],
                    "top_logprobs": [{"on": -1.0}],
                    "text_offset": [0],
                },
            }
        ],
        "usage": {"prompt_tokens": 1},
    }


def test_a_streamed_completion_says_only_text_and_ends() -> None:
    writer = open_dialect("completions").writer({"stream_options": {"include_usage": True}})
    usage = {**chunk(), "choices": [], "usage": {"prompt_tokens": 1}}
    chunks = [chunk(role="assistant", content=""), chunk(content="up"), chunk(finish="stop"), usage]
    found = events(writer.feed(chunks) + writer.end())
    assert [[choice["text"] for choice in event["choices"]] for event in found[:-1]] == [["up"], [""], []]
    assert found[1]["choices"][0]["finish_reason"] == "stop"
    assert found[2]["usage"] == {"prompt_tokens": 1}
    assert found[3] == b"[DONE]"


# --- embeddings and rerank -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_", ["a", ["a", "b"], [1, 2], [[1], [2]]])
def test_embeddings_pass(given_: Any) -> None:
    body = {"model": "m", "input": given_, "encoding_format": "base64"}
    assert open_dialect("embeddings").to_chat(body) is body


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("embeddings", {}),
        ("embeddings", {"input": []}),
        ("embeddings", {"input": ["a", 1]}),
        ("embeddings", {"input": "a", "stream": True}),
        ("embeddings", {"input": "a", "encoding_format": "bits"}),
        ("rerank", {"documents": ["a"]}),
        ("rerank", {"query": "q"}),
        ("rerank", {"query": "q", "documents": []}),
        ("rerank", {"query": "q", "documents": [3]}),
        ("rerank", {"query": "q", "documents": ["a"], "top_n": -1}),
        ("rerank", {"query": "q", "documents": ["a"], "stream": True}),
    ],
)
def test_embeddings_and_rerank_without_their_outline_are_refused(operation: Operation, body: dict[str, Any]) -> None:
    with pytest.raises(Fault) as caught:
        open_dialect(operation).to_chat(body)
    assert caught.value.kind == "bad_request"


# --- the log ---------------------------------------------------------------------------------------------------------


def test_the_log_gets_a_whole_chat_from_its_stream() -> None:
    head = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    chunks = [
        chunk(role="assistant", content=""),
        chunk(reasoning_content="h"),
        chunk(reasoning_content="m"),
        chunk(content="Hel"),
        chunk(content="lo"),
        chunk(index=1, refusal="no"),
        chunk(tool_calls=[head]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
        chunk(finish="tool_calls"),
        chunk(index=1, finish="stop"),
        {**chunk(), "choices": [], "usage": {"prompt_tokens": 1}},
    ]
    chunks[3]["choices"][0]["logprobs"] = {"content": [{"token": "Hel"}]}
    chunks[4]["choices"][0]["logprobs"] = {"content": [{"token": "lo"}]}
    raw = open_dialect("chat").writer({"stream_options": {"include_usage": True}}).feed(chunks)
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    first = {"role": "assistant", "content": "Hello", "reasoning_content": "hm", "tool_calls": [call]}
    assert assembled("chat", raw + b'data: {"cut') == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": first,
                "logprobs": {"content": [{"token": "Hel"}, {"token": "lo"}]},
                "finish_reason": "tool_calls",
            },
            {"index": 1, "message": {"role": "assistant", "content": None, "refusal": "no"}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 1},
    }


def test_the_log_gets_a_whole_completion_from_its_stream() -> None:
    writer = open_dialect("completions").writer({})
    raw = writer.feed([chunk(content="a"), chunk(content="b"), chunk(finish="length")]) + writer.end()
    (choice,) = assembled("completions", raw)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "length")


def test_the_log_gets_a_whole_message_from_its_stream() -> None:
    said = [
        {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "He"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "llo"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"partial_json": '{"a":'}},
        {"type": "content_block_delta", "index": 1, "delta": {"partial_json": "1}"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
    ]
    raw = b"".join(b"event: x\ndata: " + orjson.dumps(event) + b"\n\n" for event in said)
    assert assembled("messages", raw) == {
        "id": "m",
        "content": [{"type": "text", "text": "Hello"}, {"type": "tool_use", "name": "f", "input": {"a": 1}}],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 3, "output_tokens": 9},
    }


# --- anything at all -------------------------------------------------------------------------------------------------

FIELDS = (
    *("messages", "role", "content", "tool_calls", "stream", "stream_options", "prompt", "logprobs", "echo"),
    *("best_of", "n", "input", "query", "documents", "encoding_format", "type", "text"),
)
REPLY_FIELDS = (
    *("choices", "message", "delta", "content", "logprobs", "token", "top_logprobs", "usage", "index"),
    *("finish_reason", "tool_calls", "id", "refusal"),
)


@thoroughly
@given(body=st.one_of(objects(FIELDS, ("user", "text")), st.dictionaries(st.text(max_size=5), JSON, max_size=3)))
def test_no_request_breaks_a_dialect(body: dict[str, Any]) -> None:
    kinds = set()
    for operation in OURS:
        try:
            open_dialect(operation).to_chat(body)
        except Fault as fault:
            kinds.add(fault.kind)
    assert kinds <= {"bad_request"}


@thoroughly
@given(values=st.lists(objects(REPLY_FIELDS), max_size=4))
def test_no_reply_or_chunk_breaks_a_dialect(values: list[dict[str, Any]]) -> None:
    kinds = set()
    for operation in ("chat", "completions"):
        dialect = open_dialect(operation)
        writer = dialect.writer({"stream_options": {"include_usage": True}})
        for value in values:
            for act in (lambda: dialect.from_chat(value, {}), lambda: writer.feed([value])):  # noqa: B023
                try:
                    act()
                except Fault as fault:
                    kinds.add(fault.kind)
    assert kinds <= {"invalid"}
