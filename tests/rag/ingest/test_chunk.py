"""What holds for every text, and where cuts should fall in texts that people write."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llmops.rag.config import ChunkingConfig
from llmops.rag.document import PageSpan, Parsed
from llmops.rag.ingest.chunk import Passage, chunk, fingerprint
from llmops.rag.parse.media import MARKDOWN, PLAIN

SENTENCES = "The pump runs day and night. It needs oil every month! Does it leak? Then call Dr. Smith at once. "

MARKS = (
    "# Heading\n",
    "## Sub heading ##\n",
    "Set\n===\n",
    "- item\n",
    "1. item\n",
    "> quote. ",
    "    # indented\n",
    "---\n",
)
BLOCKS = ("| a | b |\n|---|---|\n", "| c | d |\n", "```\n", "~~~sh\n", "code()\n", "x" * 70, "word ", SENTENCES)
SIGNS = (
    "\n\n",
    "\n",
    "\r\n",
    " ",
    "\t",
    "\u2003",
    "。",
    "漢字",
    "e\u0301",
    "👩\u200d🚀",
    "...",
    "...”) ",
    "\x0b",
    "\x85",
    "\u200b",
)
PIECES = st.one_of(st.sampled_from(MARKS + BLOCKS + SIGNS), st.text(max_size=40))
TEXTS = st.lists(PIECES, max_size=60).map("".join)


def parsed(
    text: str, *, media_type: str = MARKDOWN, title: str | None = None, pages: tuple[PageSpan, ...] = ()
) -> Parsed:
    return Parsed(title, text, pages, media_type, {}, "0" * 64)


def cut(text: str, size: int = 800, *, media_type: str = MARKDOWN, title: str | None = None) -> list[Passage]:
    return chunk(parsed(text, media_type=media_type, title=title), ChunkingConfig(size_chars=size))


def texts(passages: list[Passage]) -> list[str]:
    return [passage.text for passage in passages]


@settings(max_examples=300, deadline=None)
@given(
    text=TEXTS,
    size=st.integers(50, 400),
    overlap=st.integers(0, 25),
    edges=st.lists(st.floats(0, 1), max_size=4),
    media_type=st.sampled_from((MARKDOWN, PLAIN)),
)
def test_every_text(text: str, size: int, overlap: int, edges: list[float], media_type: str) -> None:
    places = sorted(int(edge * len(text)) for edge in edges)
    pages = (
        tuple(PageSpan(number, *span) for number, span in enumerate(pairwise([0, *places, len(text)]), 1))
        if edges
        else ()
    )
    document = parsed(text, media_type=media_type, pages=pages)
    config = ChunkingConfig(size_chars=size, overlap_chars=overlap)
    passages = chunk(document, config)

    assert passages == chunk(document, config)
    assert [passage.ordinal for passage in passages] == list(range(len(passages)))
    covered: set[int] = set()
    for passage in passages:
        assert passage.text == text[passage.start : passage.end]
        assert passage.text == passage.text.strip()
        assert 1 <= len(passage.text) <= size
        page = next((page for page in pages if page.number == passage.page), PageSpan(0, 0, len(text)))
        assert page.start <= passage.start < passage.end <= page.end
        covered.update(range(passage.start, passage.end))
    assert all(place in covered for place, char in enumerate(text) if not char.isspace())
    for one, other in pairwise(passages):
        assert one.start < other.start
        assert one.end < other.end
        assert one.end - other.start <= overlap
        assert other.page == one.page or one.end <= other.start


@settings(max_examples=100, deadline=None)
@given(text=TEXTS, size=st.integers(50, 400))
def test_words_are_cut_only_where_they_are_longer_than_a_passage(text: str, size: int) -> None:
    for one, other in pairwise(cut(text, size)):
        if one.end == other.start and text[one.end - 1] not in "。！？":
            word = re.search(r"\S*\Z", text[: one.end]).group() + re.match(r"\S*", text[one.end :]).group()  # type: ignore[union-attr]
            assert len(word) > size or "。" in word or "！" in word or "？" in word


def test_a_short_text_is_one_passage() -> None:
    assert cut("  # A\n\nshort text \n") == [Passage(2, 17, None, "# A\n\nshort text", "A", 0)]


@pytest.mark.parametrize("text", ["", " ", "\n\t\r\n\u2003"])
def test_blank_text_has_no_passages(text: str) -> None:
    assert cut(text) == []


def test_cuts_fall_before_headings() -> None:
    text = "# Guide\n\n" + "".join(f"## Part {number}\n\n{SENTENCES * 5}\n\n" for number in range(4))
    passages = cut(text)
    assert len(passages) == 4
    assert passages[0].text.startswith("# Guide\n\n## Part 0")
    assert [passage.text.splitlines()[0] for passage in passages[1:]] == [f"## Part {number}" for number in (1, 2, 3)]
    assert [passage.context for passage in passages] == ["Guide", "Guide > Part 1", "Guide > Part 2", "Guide > Part 3"]


def test_no_heading_is_left_alone() -> None:
    text = "".join(f"## H{number}\n\n{SENTENCES * 6}\n\n### Sub\n\n{SENTENCES * 7}\n\n" for number in range(5))
    for passage in cut(text):
        assert not passage.text.splitlines()[-1].startswith("#")


def test_context_is_title_and_path_and_never_repeats_the_title() -> None:
    text = "# Pumps\n\n## Oil\n\n" + SENTENCES * 20
    assert {passage.context for passage in cut(text, title="Pumps")[1:]} == {"Pumps > Oil"}
    assert {passage.context for passage in cut(text, title="Manual")[1:]} == {"Manual > Pumps > Oil"}
    last = cut(text, title="Manual")[-1]
    assert last.indexed_text == f"Manual > Pumps > Oil\n{last.text}"
    (bare,) = cut("no structure", media_type=PLAIN)
    assert bare.indexed_text == bare.text


def test_a_hash_in_plain_text_or_code_is_no_heading() -> None:
    assert {passage.context for passage in cut("# not a heading\n" + SENTENCES * 20, media_type=PLAIN)} == {""}
    code = "# Real\n\n```sh\n" + "# comment\nrun this\n" * 60 + "```\n"
    assert {passage.context for passage in cut(code)} == {"Real"}


def test_a_table_that_fits_stays_whole() -> None:
    table = "| part | price |\n|---|---|\n" + "".join(f"| part number {row} | {row}.50 |\n" for row in range(20))
    passages = cut(SENTENCES * 6 + "\n\n" + table + "\n" + SENTENCES * 6)
    assert sum(table.strip() in passage.text for passage in passages) == 1


def test_a_table_that_does_not_fit_is_cut_between_rows() -> None:
    table = "| part | price |\n|---|---|\n" + "".join(f"| part number {row} | {row}.50 |\n" for row in range(100))
    for passage in cut(table):
        assert all(line.startswith("|") and line.endswith("|") for line in passage.text.splitlines())


def test_code_that_fits_stays_whole() -> None:
    code = "```python\n" + "value = compute(1. 2. 3)\n\n" * 20 + "```"
    assert sum(code in passage.text for passage in cut(SENTENCES * 5 + "\n\n" + code + "\n\n" + SENTENCES * 5)) == 1


def test_long_paragraphs_are_cut_between_sentences() -> None:
    for passage in cut(SENTENCES * 40, media_type=PLAIN):
        assert passage.text.endswith(("night.", "month!", "leak?", "once."))
        assert not passage.text.endswith("Dr.")


def test_wrapped_lines_are_not_taken_for_sentences() -> None:
    words = (SENTENCES * 40).split()
    wrapped = "\n".join(" ".join(words[place : place + 11]) for place in range(0, len(words), 11))
    assert all(passage.text.endswith((".", "!", "?")) for passage in cut(wrapped, media_type=PLAIN))


def test_no_crumbs() -> None:
    text = "# A\n\n" + SENTENCES * 9 + "\n\n# B\n\n" + SENTENCES * 9
    assert len(text) > 1600
    assert min(len(passage.text) for passage in cut(text)) > 250


def test_an_edit_moves_no_cut_before_it_nor_far_behind_it() -> None:
    sections = [f"## Part {number}\n\n{SENTENCES * (7 + number % 5)}\n\n" for number in range(30)]
    before = set(texts(cut("".join(sections))))
    sections[10] = sections[10].replace("oil", "a lot of oil", 1)
    after = set(texts(cut("".join(sections))))
    assert len(after - before) <= 2


def test_one_giant_word_is_cut_in_linear_steps() -> None:
    text = "start " + "x" * 5_000_000 + " end"
    passages = cut(text)
    assert len(passages) == -(-len(text) // 800)
    assert "".join(texts(passages)) == text


@pytest.mark.parametrize(
    "unit",
    [
        "# ",
        "[",
        "| ",
        "`",
        "```\n",
        "~~~",
        "a\n===\n",
        "> ",
        "- ",
        " ",
        "\n",
        ". ",
        "#" * 7,
        "---\n",
        "_a_",
        "\t\n",
        "。",
        "...",
        "](",
    ],
)
def test_hostile_repetition_is_cut_in_linear_time(unit: str) -> None:
    """Any quadratic step would take hours here, and trip the suite's time limit."""
    text = unit * (500_000 // len(unit))
    assert all(len(passage.text) <= 20_000 for passage in chunk(parsed(text), ChunkingConfig(size_chars=20_000)))


def test_accents_and_joined_signs_stay_whole() -> None:
    for sign in ("e\u0301", "👩\u200d🚀"):
        for passage in cut(sign * 500, size=101):
            assert len(passage.text) % len(sign) == 0


def test_overlap_repeats_whole_words_within_the_size() -> None:
    passages = chunk(parsed(SENTENCES * 20, media_type=PLAIN), ChunkingConfig(size_chars=300, overlap_chars=60))
    for one, other in pairwise(passages):
        assert 0 < one.end - other.start <= 60
        assert (" " + one.text).endswith(" " + one.text[other.start - one.start :])


def test_overlap_must_leave_room() -> None:
    with pytest.raises(ValidationError, match="at most half"):
        ChunkingConfig(size_chars=100, overlap_chars=51)


def test_the_fingerprint_changes_with_the_settings() -> None:
    assert fingerprint(ChunkingConfig()) != fingerprint(ChunkingConfig(size_chars=700))
