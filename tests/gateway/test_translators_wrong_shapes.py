"""Every translator against good requests and replies in which one thing is of the wrong kind, or missing.

Whatever it is, the outcome is a translation or a `Fault` that says whose mistake it was; nothing else is ever raised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from tests.support.json_values import mutants

from llmops.gateway.assemble import assembled
from llmops.gateway.calls import Fault, FaultKind, Operation
from llmops.gateway.ceilings import input_ceiling, output_ceiling
from llmops.gateway.config import ProviderConfig, TargetConfig
from llmops.gateway.dialects import open_dialect
from llmops.gateway.providers import open_provider

TARGET = TargetConfig(provider="p", model="m")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
REQUESTS: dict[Operation, dict[str, Any]] = {
    "chat": {
        "model": "r",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "t"}, IMAGE]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "x"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "n": 1,
        "stop": ["a"],
        "temperature": 0.5,
        "reasoning_effort": "low",
        "prediction": {"type": "content", "content": [{"type": "text", "text": "p"}]},
    },
    "completions": {
        "model": "r",
        "prompt": ["p"],
        "max_tokens": 5,
        "logprobs": 1,
        "best_of": 1,
        "n": 1,
        "echo": False,
        "stream": True,
    },
    "responses": {
        "model": "r",
        "instructions": "i",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "t"}]},
            {"role": "user", "content": [{"type": "input_image", "image_url": "https://a/b", "detail": "low"}]},
            {"role": "user", "content": [{"type": "input_file", "file_data": "data:x", "filename": "f"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "o"}]},
            {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "i"},
            {"type": "custom_tool_call_output", "call_id": "d", "output": "o"},
        ],
        "tools": [
            {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True},
            {"type": "custom", "name": "g", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}, "verbosity": "low"},
        "reasoning": {"effort": "low"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
        "max_output_tokens": 5,
    },
    "embeddings": {"model": "r", "input": ["a", "b"], "encoding_format": "float", "dimensions": 3},
    "rerank": {"model": "r", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1},
}
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
TOKENS = {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "b", "logprob": -2.0}]}]}
SAID = {"role": "assistant", "content": "a", "refusal": "r", "reasoning_content": "h", "tool_calls": [CALL]}
REPLY = {
    "id": "chatcmpl-1",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": SAID, "logprobs": TOKENS, "finish_reason": "stop"}],
    "usage": USAGE,
}
DELTA = {**SAID, "tool_calls": [{"index": 0, **CALL}]}
CHUNK = {
    **{name: value for name, value in REPLY.items() if name != "usage"},
    "choices": [{"index": 0, "delta": DELTA, "logprobs": TOKENS, "finish_reason": None}],
}
RESPONSE = {
    "id": "resp_1",
    "model": "m",
    "status": "completed",
    "error": None,
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "a"}]}],
    "usage": {"input_tokens": 1, "output_tokens": 1, "input_tokens_details": {"cached_tokens": 0}},
}
RESPONSES = [
    {"type": "response.created", "response": {**RESPONSE, "output": []}},
    {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "a"},
    {"type": "response.output_item.done", "output_index": 0, "item": RESPONSE["output"]},
]
MESSAGE = [
    {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 3}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "He"}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"partial_json": "{}"}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
]
ERROR = {"error": {"message": "m", "type": "t", "code": "c", "param": "p", "innererror": {"code": "x"}}}
PROVIDERS = {
    "compatible": open_provider(
        ProviderConfig(url="http://a/v1", operations=("chat", "completions", "responses", "embeddings", "rerank")), "k"
    ),
    "openai": open_provider(ProviderConfig(), "k"),
    "azure": open_provider(ProviderConfig(kind="azure", url="https://a"), "k"),
    "mistral": open_provider(ProviderConfig(kind="mistral"), "k"),
}


def outcomes(values: Any, act: Callable[[Any], object]) -> set[FaultKind]:
    """The kinds of fault that came of all values. At least half of good values' mutants must be looked at at all."""
    kinds: set[FaultKind] = set()
    count = 0
    for value in values:
        count += 1
        try:
            act(value)
        except Fault as fault:
            kinds.add(fault.kind)
    assert count > 10
    return kinds


def bodies(value: Any) -> list[dict[str, Any]]:
    return [mutant for mutant in mutants(value) if isinstance(mutant, dict)]


@pytest.mark.parametrize("operation", REQUESTS)
def test_wrong_requests(operation: Operation) -> None:
    good = REQUESTS[operation]
    dialect = open_dialect(operation)
    dialect.to_chat(good)
    assert outcomes(bodies(good), dialect.to_chat) == {"bad_request"}
    for provider in PROVIDERS.values():
        if operation in provider.native:
            built = outcomes(bodies(good), lambda body: provider.build(operation, body, TARGET))  # noqa: B023
            assert built <= {"bad_request"}
    assert outcomes(bodies(good), lambda body: input_ceiling(operation, body, 9)) == set()
    assert outcomes(bodies(good), lambda body: output_ceiling(operation, body, TARGET)) <= {"bad_request"}


@pytest.mark.parametrize("kind", ["anthropic", "gemini", "cohere", "mistral", "azure", "openai", "bedrock", "vertex"])
def test_wrong_chats_for_every_provider(kind: Any) -> None:
    more: dict[str, Any] = {"url": "https://a"} if kind == "azure" else {}
    if kind in ("bedrock", "vertex"):
        more = {"location": "eu-central-1", "api_key": "env:X", "project": "p-1" if kind == "vertex" else None}
    provider = open_provider(ProviderConfig.model_validate({"kind": kind, **more}), "k")
    asked = outcomes(bodies(REQUESTS["chat"]), lambda body: provider.build("chat", body, TARGET))
    assert asked <= {"bad_request"}
    assert outcomes(bodies(REQUESTS["chat"]), provider.reader) <= {"bad_request"}


@pytest.mark.parametrize("operation", ["chat", "completions", "responses"])
def test_wrong_replies(operation: Operation) -> None:
    dialect = open_dialect(operation)
    dialect.from_chat(REPLY, REQUESTS[operation])
    assert outcomes(bodies(REPLY), lambda reply: dialect.from_chat(reply, REQUESTS[operation])) <= {"invalid"}
    assert outcomes(bodies(CHUNK), lambda chunk: dialect.writer({}).feed([CHUNK, chunk])) <= {"invalid"}


@pytest.mark.parametrize(("operation", "good"), [("chat", [CHUNK]), ("responses", RESPONSES), ("messages", MESSAGE)])
def test_wrong_events_in_the_log(operation: Operation, good: list[Any]) -> None:
    raw = b"".join(_event(event) for event in good)
    assert assembled(operation, raw)
    for number, event in enumerate(good):
        before, after = b"".join(map(_event, good[:number])), b"".join(map(_event, good[number:]))
        wrong = mutants(event)
        assert outcomes(wrong, lambda value: assembled(operation, before + _event(value) + after)) == set()  # noqa: B023


@pytest.mark.parametrize(
    ("operation", "good"),
    [
        ("chat", REPLY),
        ("responses", RESPONSE),
        ("embeddings", {"data": [{"index": 0, "embedding": [0.5]}], "model": "m", "usage": USAGE}),
        ("rerank", {"results": [{"index": 0, "relevance_score": 1}], "meta": {"billed_units": {"search_units": 1}}}),
    ],
)
def test_wrong_replies_of_a_provider(operation: Operation, good: dict[str, Any]) -> None:
    for provider in PROVIDERS.values():
        if operation in provider.native:
            provider.reply(operation, orjson.dumps(good))
            read = outcomes(mutants(good), lambda reply: provider.reply(operation, orjson.dumps(reply)))  # noqa: B023
            assert "invalid" in read
    assert outcomes(mutants(ERROR), lambda error: PROVIDERS["openai"].fault(400, (), orjson.dumps(error))) == set()


def test_wrong_events() -> None:
    openai, mistral = PROVIDERS["openai"], PROVIDERS["mistral"]
    done = {"type": "response.completed", "response": RESPONSE}
    ways: list[Callable[[Any], object]] = [
        lambda event: openai.relay("chat", {}).feed(_event(CHUNK) + _event(event)),
        lambda event: openai.relay("completions", {}).feed(_event(event)),
        lambda event: openai.reader({}).feed(_event(CHUNK) + _event(event)),
        lambda event: mistral.relay("chat", {}).feed(_event(event)),
        lambda event: mistral.reader({}).feed(_event(event)),
    ]
    for way in ways:
        assert outcomes(mutants({**CHUNK, "usage": USAGE}), way) == set()
    assert outcomes(mutants(done), lambda event: openai.relay("responses", {}).feed(_event(event))) == set()
    assert outcomes(mutants(done), lambda event: assembled("responses", _event(event))) == set()


def _event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
