"""Markers in a stream and the spans behind them: however the text is cut, and only what the document really holds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.handbook import handbook

from llmops.core.identity import LOCAL
from llmops.rag.answer.citing import CitationBook, Marker, MarkerParser
from llmops.rag.retrieve import Retrieved, Retriever


def parse(*pieces: str) -> list[str | Marker]:
    """The parts, neighbouring texts joined."""
    parser = MarkerParser()
    parts: list[str | Marker] = []
    for part in [*(part for piece in pieces for part in parser.feed(piece)), *parser.flush()]:
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    return parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is so [1].", ["It is so", Marker((1,), " "), "."]),
        ("So[2][13]!", ["So", Marker((2,), ""), Marker((13,), ""), "!"]),
        ("So [1, 2]", ["So", Marker((1, 2), " ")]),
        ("`a[1]` and [1]", ["`a[1]` and", Marker((1,), " ")]),
        ("```\nx[1]\n\ny[2]\n```\n[3]", ["```\nx[1]\n\ny[2]\n```\n", Marker((3,), "")]),
        ("a ` stray\n\nnext [1]", ["a ` stray\n\nnext", Marker((1,), " ")]),
        ("[a] [1234] [] [-1] [1", ["[a] [1234] [] [-1] [1"]),
        ("", []),
    ],
)
def test_markers(text: str, expected: list[str | Marker]) -> None:
    assert parse(text) == expected


@given(st.text(alphabet=st.sampled_from("a[]1,2 \n`."), max_size=60), st.lists(st.integers(0, 60), max_size=6))
@example("so [1][2, 3] `x[1]`", [4, 5, 6])
def test_cutting_the_stream_changes_nothing(text: str, cuts: list[int]) -> None:
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    whole = parse(text)
    assert parse(*pieces) == whole
    assert parse(*text) == whole


def retrieved(question: str) -> Retrieved:
    index, embedder = handbook()
    return Retriever(lambda: index, embedder).retrieve(question, LOCAL)


def book(found: Retrieved) -> CitationBook:
    return CitationBook(found, LOCAL, handbook()[1])


def test_span_is_cited_once_by_number_and_word_for_word() -> None:
    found = retrieved("How much does the pump weigh?")
    citations = book(found)
    passage = found.passages[0]
    span = citations.support("The pump weighs 22 kilograms.", passage)
    assert span is not None
    first, again = citations.cite(passage, *span), citations.cite(passage, *span)
    assert first is not None
    assert first[1] is not None
    assert first[1].text == "It weighs 22 kilograms."
    assert again == (1, None)
    text = found.index.document(first[1].uri, LOCAL).text
    assert text[first[1].start : first[1].end] == first[1].text


def test_span_that_left_its_document_is_not_cited() -> None:
    found = retrieved("How much does the pump weigh?")
    index, embedder = handbook()
    index._documents["docs/manual.md"] = index._documents["docs/copy.md"]  # edited after it was found
    stale = Retrieved(found.question, found.vector, found.passages, "g1", 7, index)
    assert CitationBook(stale, LOCAL, embedder).cite(found.passages[0], 0, 20) is None
    del index._documents["docs/manual.md"]
    assert CitationBook(stale, LOCAL, embedder).cite(found.passages[0], 0, 20) is None


def test_claim_that_nothing_supports_has_no_span() -> None:
    found = retrieved("How much does the pump weigh?")
    assert book(found).support("Penguins enjoy jazz festivals.", found.passages[0]) is None
