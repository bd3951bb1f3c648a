"""Sentence splitting: every character that says something is in exactly one sentence, at its place."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.rag.answer.sentences import MAX_SENTENCE_CHARS, sentences


def texts(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith of the U.S. Army left. He ran.", ["Dr. Smith of the U.S. Army left.", "He ran."]),
        ("J. K. Rowling wrote it. Yes.", ["J. K. Rowling wrote it.", "Yes."]),
        ("It costs 3.50 euros. See e.g. No. 5 in Fig. 2.", ["It costs 3.50 euros.", "See e.g. No. 5 in Fig. 2."]),
        ('"Really?" She left.', ['"Really?"', "She left."]),
        ("- first item\n- second item\n1. third", ["- first item", "- second item", "1. third"]),
        ("# Title\nBody text.", ["# Title", "Body text."]),
        ("| a | b |\n|---|---|\n| 1 | 2 |", ["| a | b |", "|---|---|", "| 1 | 2 |"]),
        ("A line\nthat wraps. Next.", ["A line\nthat wraps.", "Next."]),
        ("日本語です。次の文。", ["日本語です。", "次の文。"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_known_cases(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


def test_long_run_is_cut_at_spaces() -> None:
    parts = texts("word " * 1000)
    assert all(len(part) <= MAX_SENTENCE_CHARS for part in parts)
    assert " ".join(parts).split() == ["word"] * 1000


@given(st.text(alphabet=st.sampled_from("aB1 .!?\n#-|*`\"'。é\t\r"), max_size=300))
def test_sentences_are_ordered_disjoint_trimmed_and_lose_nothing(text: str) -> None:
    spans = sentences(text)
    assert all(text[start:end].strip() == text[start:end] != "" for start, end in spans)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))
    kept = "".join(text[start:end] for start, end in spans)
    assert "".join(kept.split()) == "".join(text.split())
