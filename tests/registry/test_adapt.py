"""The reply shapes of MLflow's chat flavours, as text."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.registry.adapt import chunk_text, is_chain, reply_text


@pytest.mark.parametrize(
    "reply",
    [
        "text",
        ["text"],
        [{"generated_text": "text"}],
        {"choices": [{"index": 0, "message": {"role": "assistant", "content": "text"}}]},
        {"choices": [{"text": "text"}]},
        {"messages": [{"role": "user", "content": "no"}, {"role": "assistant", "content": "text", "id": "1"}]},
        {"output": [{"type": "message", "content": [{"type": "output_text", "text": "text"}]}]},
        {"output": [{"type": "reasoning", "content": [{"text": "no"}]}, {"type": "message", "content": "text"}]},
        {"answer": "text", "context": []},
        {"result": {"content": "text"}},
    ],
)
def test_whole_replies(reply: Any) -> None:
    assert reply_text(reply) == "text"


def test_tables_and_pydantic_replies() -> None:
    pandas = pytest.importorskip("pandas")
    from mlflow.types.llm import ChatCompletionResponse

    assert reply_text(pandas.DataFrame({"answer": ["text"]})) == "text"
    assert reply_text(pandas.Series(["text"])) == "text"
    response = ChatCompletionResponse.from_dict({"choices": [{"message": {"role": "assistant", "content": "text"}}]})
    assert reply_text(response) == "text"


@pytest.mark.parametrize("reply", [None, 1.5, {}, [], {"choices": []}, {"score": 1}, b"text"])
def test_replies_without_text(reply: Any) -> None:
    assert reply_text(reply) == ""


def test_text_that_is_json_stays_as_it_is() -> None:
    assert reply_text('{"answer": "text"}') == '{"answer": "text"}'


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        ("te", "te"),
        ({"choices": [{"delta": {"content": "te"}}]}, "te"),
        ({"choices": [{"delta": {"role": "assistant"}}]}, ""),
        ({"choices": [{"delta": {}, "finish_reason": "stop"}]}, ""),
        ({"delta": {"role": "assistant", "content": "te", "id": "1"}}, "te"),
        ({"type": "response.output_text.delta", "delta": "te"}, "te"),
        ({"type": "response.output_item.done", "item": {"content": [{"text": "again"}]}}, ""),
        ({"content": "te"}, "te"),
    ],
)
def test_chunks(chunk: Any, text: str) -> None:
    assert chunk_text(chunk) == text


def test_a_half_chain_is_none() -> None:
    class Half:
        version_info: dict[str, str] = {}  # noqa: RUF012

        def stream(self) -> None: ...

        def close(self) -> None: ...

    assert not is_chain(Half())
    assert not is_chain(None)
