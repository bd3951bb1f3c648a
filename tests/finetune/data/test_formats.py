"""Rows as people keep them, and what is said of those that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.tokenizers import chat

from llmops.finetune.data.examples import (
    Completion,
    Content,
    Conversation,
    Example,
    Message,
    Preference,
    Text,
    Thumb,
)
from llmops.finetune.data.formats import example
from llmops.finetune.data.sources import BadRowError

U, A = Message("user", "q"), Message("assistant", "a")
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CALL = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("row", "content"),
    [
        (chat("q", "a"), Conversation((U, A))),
        (chat("q", "a", tools=[TOOL]), Conversation((U, A), (TOOL,))),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, Conversation((U, A))),
        ({"instruction": "q", "input": "", "output": "a"}, Conversation((U, A))),
        ({"instruction": "q", "input": "x", "output": "a"}, Conversation((Message("user", "q\n\nx"), A))),
        ({"prompt": "q", "completion": "a"}, Completion("q", "a")),
        ({"question": "q", "answer": "a"}, Completion("q", "a")),
        ({"prompt": [U.as_json()], "completion": [A.as_json()]}, Conversation((U, A))),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, Preference((U,), "a", "b")),
        ({"chosen": chat("q", "a")["messages"], "rejected": chat("q", "b")["messages"]}, Preference((U,), "a", "b")),
        ({"prompt": [U.as_json()], "chosen": [A.as_json()], "rejected": "b"}, Preference((U,), "a", "b")),
        ({"prompt": "q", "completion": "a", "label": False}, Thumb((U,), "a", False)),
        ({"question": "q", "answer": "a", "value": "up", "requester": "anna"}, Thumb((U,), "a", True)),
        ({"text": "t"}, Text("t")),
    ],
)
def test_each_format_is_known_by_its_keys(row: dict[str, Any], content: Content) -> None:
    found = example(row, "rows.jsonl:3")
    assert found.content == content
    assert Example.from_json(found.as_json()) == found


def test_tool_calls_and_parts_of_text_go_on_to_the_template() -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {"role": "assistant", "content": None, "tool_calls": CALL},
        {"role": "tool", "tool_call_id": "1", "content": "7"},
        {"role": "assistant", "content": "a", "weight": 0},
    ]
    found = example({"messages": turns}, "r").content
    assert isinstance(found, Conversation)
    assert found.messages[0] == U
    assert found.messages[1].extra == {"tool_calls": CALL}
    assert [one.learned for one in found.messages] == [True, True, True, False]


@pytest.mark.parametrize(
    ("row", "what", "hint"),
    [
        ({"mesages": []}, "`mesages`", "did you mean `messages`"),
        ({"text": 7}, "no text but int", None),
        (chat("q", "a") | {"messages": [{"role": "usr", "content": "q"}]}, "role `usr`", "did you mean `user`"),
        ({"messages": []}, "empty", None),
        ({"messages": "q"}, "no list", None),
        ({"chosen": chat("q", "a")["messages"], "rejected": chat("x", "b")["messages"]}, "differ before", "prompt"),
        ({"prompt": "q", "completion": "a", "label": "yes"}, "'yes'", "true for a liked"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": -1}]}, "weight` is -1", "or 0"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": "0"}]}, "weight` is '0'", "or 0"),
        ({"conversations": [{"from": "gpt", "value": "a", "weight": 0.5}]}, "weight` is 0.5", "or 0"),
        ({"conversations": [{"from": ["gpt"], "value": "a"}]}, "from `", "human"),
        ({"conversations": [{"from": "alien", "value": "q"}]}, "alien", "human"),
    ],
)
def test_a_row_that_does_not_fit_names_its_place(row: dict[str, Any], what: str, hint: str | None) -> None:
    with pytest.raises(BadRowError, match=what) as caught:
        example(row, "rows.jsonl:3")
    assert caught.value.where == "rows.jsonl:3"
    assert hint is None or hint in str(caught.value.hint)


PLAIN = st.sampled_from([None, True, 3, "q", "[", [], {}])
TURN = st.dictionaries(st.sampled_from(["role", "content", "from", "value", "weight"]), PLAIN | st.just("user"))
KEYS = ("messages", "conversations", "prompt", "completion", "label", "chosen", "rejected", "text", "instruction",
        "output", "tools", "system", "question", "answer", "value")  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), PLAIN | TURN | st.lists(TURN, max_size=3)))
def test_any_row_is_an_example_or_a_bad_row(row: dict[str, Any]) -> None:
    try:
        found = example(row, "r")
    except BadRowError:
        return
    assert len(found.id) == 64
