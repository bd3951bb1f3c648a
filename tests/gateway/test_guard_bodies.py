"""Whole requests and replies under guard: every format's texts, roles, masks, blocks and configuration errors."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.core.errors import ConfigError
from llmops.gateway.calls import Operation
from llmops.gateway.config import GuardConfig
from llmops.gateway.guard import open_guards
from llmops.gateway.guard.personal import luhn, mod97

MAIL = "write to alice@example.org"
MASKED = "write to [email]"


def masking(**more: Any) -> Any:
    return open_guards([GuardConfig(check="pii", on="both", action="mask", **more)])


def chat(content: Any, role: str = "user") -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": role, "content": content}]}


REQUESTS: list[tuple[Operation, dict[str, Any]]] = [
    ("chat", chat(MAIL)),
    ("chat", chat(MAIL, "system")),
    ("chat", chat([{"type": "text", "text": MAIL}])),
    ("chat", {"messages": [{"role": "assistant", "content": None, "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": MAIL}}]}]}),
    ("chat", {"messages": [{"role": "tool", "tool_call_id": "a", "content": MAIL}]}),
    ("chat", {"messages": [], "tools": [{"type": "function", "function": {"name": "f", "description": MAIL}}]}),
    ("completions", {"prompt": MAIL}),
    ("completions", {"prompt": ["x", MAIL]}),
    ("responses", {"input": MAIL}),
    ("responses", {"instructions": MAIL, "input": []}),
    ("responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": MAIL}]}]}),
    ("responses", {"input": [{"type": "function_call_output", "call_id": "a", "output": MAIL}]}),
    ("responses", {"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": MAIL}]}),
    ("messages", {"system": MAIL, "messages": []}),
    ("messages", {"system": [{"type": "text", "text": MAIL}], "messages": []}),
    ("messages", chat([{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": MAIL}]}])),
    ("messages", chat([{"type": "tool_use", "id": "a", "name": "f", "input": {"deep": [{"er": MAIL}]}}], "assistant")),
    ("messages", chat([{"type": "document", "source": {"type": "content", "content": MAIL}}])),
    ("messages", chat([{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": MAIL}}])),
    ("messages", chat([{"type": "tool_use", "id": "a", "name": "f", "input": {"data": MAIL}}], "assistant")),
    ("chat", {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": MAIL}}]}]}),
    ("chat", {"messages": [{"role": "assistant", "reasoning_content": MAIL}]}),
    ("chat", {"messages": [], "prediction": {"type": "content", "content": MAIL}}),
    ("embeddings", {"input": MAIL}),
    ("embeddings", {"input": ["x", MAIL]}),
    ("rerank", {"query": MAIL, "documents": []}),
    ("rerank", {"query": "x", "documents": [MAIL]}),
    ("rerank", {"query": "x", "documents": [{"text": MAIL}]}),
]  # fmt: skip
REPLIES: list[tuple[Operation, dict[str, Any]]] = [
    ("chat", {"choices": [{"message": {"role": "assistant", "content": MAIL}}]}),
    ("chat", {"choices": [{"message": {"role": "assistant", "content": "", "reasoning_content": MAIL}}]}),
    ("chat", {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [
        {"function": {"name": "f", "arguments": MAIL}}]}}]}),
    ("chat", {"choices": [{"message": {"content": None, "tool_calls": [{"function": {"arguments": MAIL}}]}}]}),
    ("messages", {"content": [{"type": "tool_use", "input": {"url": MAIL, "id": MAIL}}]}),
    ("completions", {"choices": [{"text": MAIL}]}),
    ("messages", {"content": [{"type": "text", "text": MAIL}]}),
    ("messages", {"content": [{"type": "thinking", "thinking": MAIL, "signature": "s"}]}),
    ("messages", {"content": [{"type": "tool_use", "input": {"to": MAIL}}]}),
    ("responses", {"output": [{"type": "message", "content": [{"type": "output_text", "text": MAIL}]}]}),
    ("responses", {"output": [{"type": "function_call", "arguments": MAIL}]}),
    ("rerank", {"results": [{"index": 0, "document": {"text": MAIL}}]}),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "body"), REQUESTS)
def test_every_text_of_a_request_is_found(operation: Operation, body: dict[str, Any]) -> None:
    verdict = masking().check_input(operation, body)
    assert verdict.action == "masked"
    assert verdict.findings == ("pii:email",)
    assert MASKED in repr(verdict.body)
    assert "alice" not in repr(verdict.body)


@pytest.mark.parametrize(("operation", "reply"), REPLIES)
def test_every_text_of_a_reply_is_found(operation: Operation, reply: dict[str, Any]) -> None:
    verdict = masking().check_output(operation, reply)
    assert verdict.action == "masked"
    assert MASKED in repr(verdict.body)
    assert "alice" not in repr(verdict.body)


def test_a_body_with_nothing_found_is_the_same_object() -> None:
    body = chat("What is the capital of France?")
    verdict = masking().check_input("chat", body)
    assert verdict.action == "pass"
    assert verdict.body is body
    assert verdict.findings == ()


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from([
            "messages", "content", "role", "type", "text", "input", "prompt", "tool_calls", "function", "arguments",
            "documents", "query", "choices", "message", "output", "results", "image_url", "url", "system", "tools",
            "function_call", "source", "delta", "index",
        ]), inner, max_size=4),
    max_leaves=25,
)  # fmt: skip


@given(st.sampled_from(["chat", "completions", "responses", "messages", "embeddings", "rerank"]), SHAPES)
@settings(max_examples=400, deadline=None)
def test_no_shape_of_json_breaks_a_guard(operation: Operation, shape: Any) -> None:
    body = shape if isinstance(shape, dict) else {"messages": shape, "input": shape, "choices": shape}
    guards = open_guards([
        GuardConfig(check="pii", on="both", action="mask"), GuardConfig(check="injection"),
        GuardConfig(check="max_chars"),
    ])  # fmt: skip
    assert guards.check_input(operation, body).action in ("pass", "masked", "blocked")
    assert guards.check_output(operation, body).action in ("pass", "masked", "blocked")
    stream = guards.open_stream()
    stream.feed([body])
    stream.finish()


def test_very_deep_json_is_walked() -> None:
    deep: Any = {"to": MAIL}
    for _ in range(20_000):
        deep = {"a": [deep]}
    verdict = masking().check_input("messages", chat([{"type": "tool_use", "input": deep}], "assistant"))
    assert verdict.findings == ("pii:email",)


def test_block_wins_over_mask_and_says_no_more_than_the_name() -> None:
    guards = open_guards([
        GuardConfig(check="pii", action="mask"), GuardConfig(check="secrets", action="block"),
    ])  # fmt: skip
    body = chat(f"{MAIL}, the key is sk-abcdefgh0123456789")
    verdict = guards.check_input("chat", body)
    assert verdict.action == "blocked"
    assert "secrets" in verdict.findings
    assert MAIL in body["messages"][0]["content"], "what is refused is not changed"
    fault = verdict.fault()
    assert (fault.kind, fault.status, fault.code) == ("content_filtered", 400, "content_filter")
    assert "sk-" not in fault.message
    assert not fault.retryable


def test_log_changes_nothing() -> None:
    verdict = open_guards([GuardConfig(check="pii", action="log")]).check_input("chat", chat(MAIL))
    assert verdict.action == "pass"
    assert verdict.findings == ("pii:email",)
    assert MAIL in repr(verdict.body)


def test_only_the_chosen_kinds_and_direction() -> None:
    guards = open_guards([GuardConfig(check="pii", kinds=("card",), action="mask", on="output")])
    assert guards.check_input("chat", chat("4111 1111 1111 1111")).action == "pass"
    reply = {"choices": [{"message": {"content": f"4111 1111 1111 1111, {MAIL}"}}]}
    assert guards.check_output("chat", reply).body["choices"][0]["message"]["content"] == f"[card], {MAIL}"


def test_length_counts_all_texts() -> None:
    guards = open_guards([GuardConfig(check="max_chars", max_chars=10)])
    assert guards.check_input("embeddings", {"input": ["12345", "67890"]}).action == "pass"
    verdict = guards.check_input("embeddings", {"input": ["12345", "67890", "1"]})
    assert (verdict.action, verdict.findings) == ("blocked", ("max_chars",))


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        ("4111 1111 1111 1111", "card"), ("5500-0000-0000-0004", "card"), ("340000000000009", "card"),
        ("3782 822463 10005", "card"), ("6011000990139424", "card"), ("GB82 WEST 1234 5698 7654 32", "iban"),
        ("FR14 2004 1010 0505 0001 3M02 606", "iban"), ("NO9386011117947", "iban"),
        ("MT84MALT011000012345MTLCAST001S", "iban"), ("219-09-9999", "ssn"), ("+1 415 555 2671", "phone"),
        ("+442079460018", "phone"), ("415.555.2671", "phone"), ("10.1.2.3", "ip"), ("fe80::1", "ip"),
        ("::ffff:192.168.0.1", "ip"), ("o'neill@mail.example.com", "email"), ("jürgen@müller.de", "email"),
    ],
)  # fmt: skip
def test_what_counts_as_personal(number: str, kind: str) -> None:
    body = chat(f"it is {number}, I think")
    verdict = masking().check_input("chat", body)
    assert verdict.findings == (f"pii:{kind}",)
    assert body["messages"][0]["content"] == f"it is [{kind}], I think"


@pytest.mark.parametrize(
    "harmless",
    [
        "4111 1111 1111 1112", "1234567890123456", "0000 0000 0000 0000", "GB83 WEST 1234 5698 7654 32", "000-12-3456",
        "900-12-3456", "666-12-3456", "version 1.2.3", "at 12:30:45", "std::vector<int>", "256.1.1.1", "a @ b", "@home",
        "2026-11-23", "1,234,567.89", "3.14159265358979", "00:1a:2b:3c:4d:5e",
    ],
)  # fmt: skip
def test_what_does_not(harmless: str) -> None:
    verdict = masking().check_input("chat", chat(f"it is {harmless} here"))
    assert verdict.findings == ()


@given(st.text("0123456789", min_size=11, max_size=18))
def test_luhn_finds_every_changed_digit(body: str) -> None:
    number = next(body + digit for digit in "0123456789" if luhn(body + digit))
    for place in range(len(number)):
        other = str((int(number[place]) + 1) % 10)
        assert not luhn(number[:place] + other + number[place + 1 :])


def test_mod_97() -> None:
    assert mod97("DE89370400440532013000")
    assert not mod97("DE89370400440532013001")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"check": "pattern", "patterns": {"x": "("}}, "regular expression"),
        ({"check": "pattern", "patterns": {"x": r"(a)\1"}}, "regular expression"),
        ({"check": "pattern", "patterns": {"x": "(?=a)"}}, "regular expression"),
        ({"check": "pattern", "patterns": {"x": "a*"}}, "nothing"),
        ({"check": "pattern", "patterns": {"x y": "a"}}, "name"),
        ({"check": "pattern"}, "needs `patterns`"),
        ({"check": "topics"}, "needs words"),
        ({"check": "topics", "topics": (" ",)}, "needs words"),
        ({"check": "pii", "kinds": ("emial",)}, "no kind"),
        ({"check": "injection", "action": "mask"}, "cannot mask"),
        ({"check": "max_chars", "action": "mask"}, "cannot mask"),
        ({"check": "injection", "on": "both"}, "goes in"),
        ({"check": "image_urls", "on": "output"}, "goes in"),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_guards([GuardConfig(**config)])


HOSTILE = ("a" * 200_000, "a@" * 100_000, "1 " * 100_000, "-" * 200_000, "AA11 " * 40_000, "+1" * 100_000,
           "1:" * 100_000, "1111-" * 40_000, "password" * 25_000, "Bearer " * 30_000, "\u200b" * 100_000,
           "-----BEGIN A PRIVATE KEY-----" * 7_000, "ignore all " * 20_000, "![" * 100_000)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:8]))
def test_no_text_can_hang_a_worker(text: str) -> None:
    """200 kB of the worst in seconds at most, here with an expression that hangs backtracking engines for centuries."""
    guards = open_guards([
        GuardConfig(check="pii", action="log"), GuardConfig(check="secrets", action="log"),
        GuardConfig(check="injection", action="log"),
        GuardConfig(check="topics", action="log", topics=("a b c", "bomb")),
        GuardConfig(check="pattern", action="log", patterns={"evil": "(a+)+b", "worse": "(a|a)*c"}),
    ])  # fmt: skip
    begun = time.process_time()
    guards.check_input("chat", chat(text))
    assert time.process_time() - begun < 20
