"""Streams under guard: nothing of a finding gets out, and what is clean comes out as it went in."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.gateway.config import GuardConfig
from llmops.gateway.guard import Guards, StreamGuard, open_guards
from llmops.gateway.guard.stream import HELD_CHARS

MASKING = open_guards([
    GuardConfig(check="pii", on="both", action="mask"),
    GuardConfig(check="secrets", on="both", action="mask"),
    GuardConfig(check="topics", on="both", action="mask", topics=("bomb", "credit card", "炸弹", "c++")),
    GuardConfig(check="pattern", on="both", action="mask", patterns={"ticket": r"\bTICKET-[0-9]{2,5}\b"}),
])  # fmt: skip
BLOCKING = open_guards([GuardConfig(check="secrets", on="output"), GuardConfig(check="pii", on="output")])
FINDINGS = (
    "alice.smith+x@mail.example.co.uk", "4111 1111 1111 1111", "4111111111111111", "3782-822463-10005",
    "DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "123-45-6789", "+49 30 1234567", "(415) 555-2671",
    "415-555-2671", "192.168.17.23", "2001:db8::8a2e:370:7334", "sk-abcdefgh1234567890", "ghp_abcdefghij0123456789",
    "AKIAABCDEFGHIJKLMNOP", "Bearer abcdef123456789", "api_key = abcdef0123456789", '"password": "hunter2hunter2"',
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc+/\nxyz=\n-----END RSA PRIVATE KEY-----", "bomb", "BОМВ", "b\u200bomb",
    "credit -- card", "credit", "炸弹", "c++", "TICKET-123",
)  # fmt: skip
NEARLY = (
    "alice@", "@bob", "4111 1111 1111 1112", "DE00 3704 0044 0532 0130 00", "000-12-3456", "risk-management-framework",
    "sk-short", "1.2.3", "12:30:45", "std::vector", "Bearer of news", "bombast", "TICKET-1", "+1", "api key",
    "-----BEGIN ", " ", "\n", ".", "-", "(", "a", "9", "é", "\u200b", "word ", "、",
)  # fmt: skip
texts = st.lists(
    st.one_of(st.sampled_from(FINDINGS), st.sampled_from(NEARLY), st.text("ab1 .-@:+é😀", max_size=6)), max_size=12
).map("".join)


def chunks(text: str, cuts: list[int]) -> list[dict[str, Any]]:
    """The text as a stream of chat chunks, cut at these places."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
    made = [{"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    return [
        *made,
        {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {}},
    ]


def said(out: list[dict[str, Any]], field: str = "content", index: int = 0) -> str:
    choices = [choice for chunk in out for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get(field) or "" for choice in choices)


def whole(guards: Guards, text: str) -> tuple[str, tuple[str, ...]]:
    reply = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    verdict = guards.check_output("chat", reply)
    return verdict.body["choices"][0]["message"]["content"], verdict.findings


@given(texts, st.lists(st.integers(0, 400), max_size=40))
@settings(max_examples=400, deadline=None)
def test_a_stream_says_what_the_whole_reply_would(text: str, cuts: list[int]) -> None:
    expected, findings = whole(MASKING, text)
    guard = MASKING.open_stream()
    out = [chunk for one in chunks(text, cuts) for chunk in guard.feed([one])] + guard.finish()
    assert said(out) == expected
    assert set(guard.findings) == set(findings)


@given(texts)
@settings(max_examples=150, deadline=None)
def test_character_by_character(text: str) -> None:
    expected, _ = whole(MASKING, text)
    guard = MASKING.open_stream()
    assert said(guard.feed(chunks(text, list(range(len(text)))))) == expected


SECRETS = st.sampled_from(
    [finding for finding in FINDINGS if any(mark in finding for mark in ("sk-", "ghp_", "AKIA", "@"))]
)


@given(
    st.text("ab .,\n", max_size=30),
    SECRETS,
    st.text("xy .,\n", max_size=30),
    st.lists(st.integers(0, 200), max_size=60),
)
@settings(max_examples=300, deadline=None)
def test_no_part_of_a_secret_is_let_through(before: str, secret: str, after: str, cuts: list[int]) -> None:
    text = f"{before} {secret} {after}"
    guard = BLOCKING.open_stream()
    out = guard.feed(chunks(text, cuts)) + guard.finish()
    assert guard.fault is not None
    assert guard.fault.kind == "content_filtered"
    assert f"{before} ".startswith(said(out)), "nothing of the secret, nor what follows it"
    assert secret not in guard.fault.message


CLEAN = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)


@given(CLEAN, st.lists(st.integers(0, 300), max_size=30))
@settings(max_examples=200, deadline=None)
def test_clean_text_comes_out_unchanged(text: str, cuts: list[int]) -> None:
    expected, findings = whole(MASKING, text)
    guard = MASKING.open_stream()
    out = guard.feed(chunks(text, cuts))
    if not findings:
        assert expected == text
        assert said(out).encode() == text.encode()
    else:
        assert said(out) == expected


def test_little_is_held_back() -> None:
    guard = MASKING.open_stream()
    text = "The quick brown fox jumps over the lazy dog and writes a long story about it. "
    out = said(guard.feed(chunks(text * 3, list(range(3 * len(text))))[:-2]))
    assert len(text * 3) - len(out) <= 256, "the window of the configured pattern"
    without_pattern = open_guards([GuardConfig(check="pii", on="output", action="mask")]).open_stream()
    out = said(without_pattern.feed(chunks(text * 3, list(range(3 * len(text))))[:-2]))
    assert len(text * 3) - len(out) <= 12, "a word"


def test_a_match_without_end_is_masked_whole_and_forgotten() -> None:
    guard = MASKING.open_stream()
    key = "sk-a1" + "b" * 50_000
    out = guard.feed(chunks(f"key {key} end", list(range(0, 50_000, 7))))
    assert said(out) == "key [secret] end"


def test_a_run_without_a_match_is_not_kept() -> None:
    guard = MASKING.open_stream()
    run = "Ab1" * 20_000
    out = guard.feed(chunks(run, list(range(0, 60_000, 11)))[:-2])
    assert len(run) - len(said(out)) <= HELD_CHARS


def _call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    call = {"index": index, "function": {"arguments": arguments}, **more}
    return {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}


def test_arguments_of_tool_calls_are_guarded_each_by_itself() -> None:
    guard = MASKING.open_stream()
    stream = [
        *chunks("I will write to bob@", [3, 9])[:-2],
        _call(0, "", id="t0", type="function"),
        _call(0, '{"to": "alice@exa'),
        _call(0, 'mple.org"}'),
        _call(1, '{"to": "c', id="t1", type="function"),
        _call(1, 'arol@example.org"}'),
        {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ]
    out = guard.feed(stream)
    assert said(out) == "I will write to bob@"
    calls = [call for chunk in out for choice in chunk["choices"] for call in choice["delta"].get("tool_calls", ())]
    arguments = {
        index: "".join(call["function"]["arguments"] for call in calls if call["index"] == index and "function" in call)
        for index in (0, 1)
    }
    assert arguments == {0: '{"to": "[email]"}', 1: '{"to": "[email]"}'}
    order = [("content" in c["choices"][0]["delta"], "tool_calls" in c["choices"][0]["delta"]) for c in out[1:-1]]
    assert order.index((False, True)) > order.index((True, False)), "text comes out before the calls that follow it"
    assert out[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_choices_do_not_mix() -> None:
    guard = MASKING.open_stream()
    stream = []
    for a, b in zip("mail bob@example.org", "call +49 30 1234567!", strict=True):
        for index, piece in ((0, a), (1, b)):
            stream.append({"choices": [{"index": index, "delta": {"content": piece}, "finish_reason": None}]})
    out = guard.feed(stream) + guard.finish()
    assert said(out, index=0) == "mail [email]"
    assert said(out, index=1) == "call [phone]!"


def test_completions_are_streamed_as_text() -> None:
    guard = MASKING.open_stream()
    stream = [
        {"choices": [{"index": 0, "text": piece, "finish_reason": None}]} for piece in ("to bob@", "x.org", " ok")
    ]
    out = guard.feed([*stream, {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}])
    assert "".join(choice["text"] for chunk in out for choice in chunk["choices"]) == "to [email] ok"
    assert out[-1]["choices"][0]["finish_reason"] == "stop"


def test_log_only_holds_nothing_back_and_still_finds() -> None:
    guard = open_guards([GuardConfig(check="pii", on="output", action="log")]).open_stream()
    pieces = chunks("write to bob@example.org now", list(range(40)))
    sent = copy.deepcopy(pieces)
    out = [guard.feed([piece]) for piece in pieces]
    assert [chunk for part in out for chunk in part] == sent
    assert guard.findings == ("pii:email",)


def test_token_probabilities_do_not_spell_out_what_is_held() -> None:
    guard = MASKING.open_stream()
    probabilities = {"content": [{"token": "bob@example.org", "logprob": -0.1}]}
    chunk = {
        "choices": [
            {"index": 0, "delta": {"content": "bob@example.org"}, "logprobs": probabilities, "finish_reason": None}
        ]
    }
    out = guard.feed([chunk]) + guard.finish()
    assert "bob" not in repr(out)


@pytest.mark.parametrize("action", ["block", "log"])
def test_a_reply_that_is_too_long(action: str) -> None:
    guards = open_guards([GuardConfig(check="max_chars", on="output", max_chars=10, action=action)])
    guard: StreamGuard = guards.open_stream()
    out = guard.feed(chunks("0123456789 and more", [3, 6, 9, 12]))
    assert guard.findings == ("max_chars",)
    assert (guard.fault is not None) == (action == "block")
    assert said(out) == ("012345678" if action == "block" else "0123456789 and more")
