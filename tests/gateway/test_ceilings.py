"""The most tokens a request can cost: never below what it does cost, and no higher than it must be."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.json_values import objects, patiently

from llmops.gateway.calls import Fault, Operation
from llmops.gateway.ceilings import (
    GPT_4O_MINI_IMAGE_TOKENS,
    IMAGE_TOKENS,
    STORED_TOKENS,
    TEMPLATE_TOKENS,
    TOOLS_TOKENS,
    choice_count,
    input_ceiling,
    output_ceiling,
)
from llmops.gateway.config import TargetConfig

TARGET = TargetConfig(provider="p", model="m", max_output_tokens=100)


def most_input(operation: Operation, body: dict[str, Any], model: str = "") -> int:
    return input_ceiling(operation, body, len(orjson.dumps(body)), model)


@pytest.mark.parametrize(
    ("operation", "body", "expected"),
    [
        ("chat", {}, 100),
        ("chat", {"max_tokens": 10}, 10),
        ("chat", {"max_tokens": 10, "n": 3}, 30),
        ("chat", {"n_cmpl": 4}, 400),
        ("chat", {"max_tokens": 10, "prediction": {"type": "content", "content": "é" * 5}}, 20),
        ("completions", {"max_tokens": 10, "n": 2, "best_of": 5}, 50),
        ("completions", {"max_tokens": 10, "prompt": ["a", "b", "c"]}, 30),
        ("completions", {"max_tokens": 10, "prompt": [1, 2, 3]}, 10),
        ("completions", {"max_tokens": 10, "prompt": [[1], [2]], "n": 2}, 40),
        ("responses", {"max_output_tokens": 5}, 5),
        ("messages", {"max_tokens": 500}, 100),
        ("embeddings", {"input": "x"}, 0),
        ("rerank", {"query": "x"}, 0),
    ],
)
def test_output(operation: Operation, body: dict[str, Any], expected: int) -> None:
    assert output_ceiling(operation, body, TARGET) == expected


@pytest.mark.parametrize("body", [{"n": 0}, {"n": "2"}, {"best_of": 1.5}, {"n": True}])
def test_a_count_that_is_none_is_the_callers_mistake(body: dict[str, Any]) -> None:
    with pytest.raises(Fault) as caught:
        choice_count("chat", body)
    assert caught.value.kind == "bad_request"


@patiently
@given(text=st.text(max_size=400))
def test_text_is_bounded_by_its_bytes(text: str) -> None:
    body = {"messages": [{"role": "user", "content": text}]}
    assert most_input("chat", body) == len(orjson.dumps(body)) + TEMPLATE_TOKENS
    assert most_input("chat", body) >= len(text.encode())


def _picture(url: str) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}, part]}]}


def test_a_picture_counts_as_a_picture_and_not_by_its_bytes() -> None:
    small, large = _picture("data:image/png;base64," + "A" * 100), _picture("data:image/png;base64," + "A" * 5_000_000)
    assert most_input("chat", small) == most_input("chat", large) < IMAGE_TOKENS + 300
    assert most_input("chat", _picture("https://example.org/a.png")) > IMAGE_TOKENS
    assert most_input("chat", small, "gpt-4o-mini-2024-07-18") - most_input("chat", small) == (
        GPT_4O_MINI_IMAGE_TOKENS - IMAGE_TOKENS
    )


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a/b"}]}]}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]}),
        (
            "messages",
            {"messages": [{"content": [{"type": "tool_result", "content": [{"type": "image", "source": {}}]}]}]},
        ),
        ("responses", {"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]}),
    ],
)
def test_pictures_are_found_in_every_format(operation: Operation, body: dict[str, Any]) -> None:
    assert IMAGE_TOKENS < most_input(operation, body) < 2 * IMAGE_TOKENS


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("responses", {"input": "x", "previous_response_id": "r"}),
        ("responses", {"input": "x", "conversation": "c"}),
        ("responses", {"input": "x", "prompt": {"id": "p"}}),
        ("responses", {"input": "x", "tools": [{"type": "web_search"}]}),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}),
        ("messages", {"messages": [], "tools": [{"type": "web_search_20260101", "name": "w"}]}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}),
        ("chat", {"messages": [], "web_search_options": {"search_context_size": "low"}}),
    ],
)
def test_what_is_only_named_costs_up_to_a_whole_context(operation: Operation, body: dict[str, Any]) -> None:
    assert most_input(operation, body) >= STORED_TOKENS


def test_own_tools_cost_their_bytes_and_a_constant() -> None:
    body = {"messages": [], "tools": [{"type": "function", "function": {"name": "f"}}]}
    assert most_input("chat", body) == len(orjson.dumps(body)) + TEMPLATE_TOKENS + TOOLS_TOKENS


def test_rerankers_read_the_query_with_each_document() -> None:
    body = {"query": "q" * 100, "documents": ["d"] * 50}
    assert most_input("rerank", body) >= 50 * 101


@patiently
@given(
    operation=st.sampled_from(["chat", "completions", "responses", "messages", "embeddings", "rerank"]),
    body=objects(
        ("messages", "input", "content", "type", "image_url", "source", "tools", "prompt", "n", "documents", "url"),
        ("image_url", "input_image", "file", "tool_result", "data:image/png;base64,AAAA"),
    ),
)
def test_no_body_breaks_a_ceiling(operation: Any, body: dict[str, Any]) -> None:
    assert input_ceiling(operation, body, len(orjson.dumps(body))) >= 0
    try:
        most = output_ceiling(operation, body, TARGET)
    except Fault:
        return
    assert most >= 0
