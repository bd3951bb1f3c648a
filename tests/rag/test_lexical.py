"""Segments, deletions and merges must not show: every score equals a naive BM25's over the live rows, bit for bit."""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.core.errors import IntegrityError, UserError
from llmops.rag.lexical import Lexical, Segment, analyze, analyzer, bm25, merge, vocabulary

WORDS = ("budget", "budgets", "the", "café", "42", "日本", "run", "running", "zebra", "")
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


def naive(texts: dict[int, str], query: str, size: int, k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    """BM25 as its formula stands, one document at a time, in Python's floats."""
    terms = {row: analyze(text) for row, text in texts.items()}
    mean = sum(map(len, terms.values())) / len(terms) if terms else 0.0
    scores = np.zeros(size, dtype=np.float32)
    for row, words in terms.items():
        counts, total = Counter(words), 0.0
        norm = k1 * ((1.0 - b) + b * (len(words) / (mean or 1.0)))
        for term, repeats in Counter(analyze(query)).items():
            held = sum(term in other for other in terms.values())
            if counts[term]:
                idf = repeats * math.log(1.0 + (len(terms) - held + 0.5) / (held + 0.5))
                total += idf * (counts[term] / (counts[term] + norm))
        scores[row] = total
    return scores


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[str], list[int], np.ndarray]:
    """Texts, the segment of each, and which are live."""
    texts = draw(st.lists(TEXTS, max_size=20))
    places = draw(st.lists(st.integers(0, 3), min_size=len(texts), max_size=len(texts)))
    live = np.array(draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts))), dtype=bool)
    return texts, places, live


def split(texts: list[str], places: list[int]) -> list[Segment]:
    rows = list(enumerate(texts))
    return [Segment.build([row for row, place in zip(rows, places, strict=True) if place == n]) for n in range(4)]


@settings(max_examples=150, deadline=None)
@given(corpora(), TEXTS)
def test_scores_equal_a_naive_reference_over_the_live_rows(
    corpus: tuple[list[str], list[int], np.ndarray], query: str
) -> None:
    texts, places, live = corpus
    lexical = Lexical(split(texts, places), live)
    expected = naive({row: text for row, text in enumerate(texts) if live[row]}, query, len(texts))
    assert np.array_equal(lexical.scored(query).every, expected)
    rows = np.array([*range(len(texts)), *range(len(texts))], dtype=np.int64)[::-1]
    assert np.array_equal(lexical.scored(query).at(rows), expected[rows])


@settings(max_examples=100, deadline=None)
@given(corpora())
def test_a_merge_is_byte_for_byte_a_scratch_build(corpus: tuple[list[str], list[int], np.ndarray]) -> None:
    texts, places, live = corpus
    scratch = Segment.build([(row, text) for row, text in enumerate(texts) if live[row]])
    assert merge(split(texts, places), live).to_bytes() == scratch.to_bytes()


@settings(max_examples=100, deadline=None)
@given(corpora(), TEXTS, st.integers(0, 8), st.data())
def test_top_is_the_head_of_all_scores_and_never_leaves_the_allowed(
    corpus: tuple[list[str], list[int], np.ndarray], query: str, k: int, data: st.DataObject
) -> None:
    texts, places, live = corpus
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts))), dtype=bool)
    lexical = Lexical(split(texts, places), live)
    scores = lexical.scored(query).every
    order = sorted((row for row in range(len(texts)) if scores[row] > 0 and allowed[row]), key=lambda r: -scores[r])
    rows, found = lexical.top(query, k, allowed)
    assert rows.tolist() == order[:k]
    assert np.array_equal(found, scores[rows])


def test_terms_that_begin_alike_are_told_apart() -> None:
    beginnings = ["zq", "zq77777", "zq777777", "zq7777777"]
    words = [*beginnings, *(f"zq777777{n}" for n in range(10, 50))]
    lexical = Lexical(split(words, [n % 3 for n in range(len(words))]), np.ones(len(words), dtype=bool))
    for row, word in enumerate(words):
        assert np.flatnonzero(lexical.scored(word).every).tolist() == [row]
    for unknown in ("z", "zq7", "zq777777x", "zq77777700", "zz"):
        assert not lexical.scored(unknown).every.any()


def test_what_is_kept_of_terms_is_bounded_and_changes_no_score(monkeypatch) -> None:
    texts = [f"common {'even' if n % 2 else 'odd'} word{n} word{n // 7}" for n in range(200)]
    live = np.arange(200) % 5 > 0
    queries = [f"common word{n} even unknown{n} odd word{n}" for n in range(60)] * 2
    lexical = Lexical(split(texts, [n % 4 for n in range(200)]), live)
    expected = [lexical.scored(query).every for query in queries]
    assert np.array_equal(expected[3], naive({n: text for n, text in enumerate(texts) if live[n]}, queries[3], 200))
    for room in (1, 400, 700):
        monkeypatch.setattr(bm25, "_KEPT_POSTINGS", room)
        bounded = Lexical(split(texts, [n % 4 for n in range(200)]), live)
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(bounded.scored, queries))
        assert all(np.array_equal(scored.every, wanted) for scored, wanted in zip(found, expected, strict=True))
        assert sum(len(term.rows) for term in bounded._kept.values()) + len(bounded._kept) * bm25._EACH_TERM <= room


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_ascii_words_are_cut_as_a_pattern_cuts_them_and_a_vocabulary_is_of_the_terms(text: str) -> None:
    assert vocabulary(text) == frozenset(analyze(text))
    plain = text.encode("ascii", "replace").decode()
    assert analyzer._words(plain) == re.findall("[a-z0-9]+", plain.lower())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=8), st.text(max_size=30))
def test_any_text_survives_its_bytes(texts: list[str], query: str) -> None:
    segment = Segment.build(list(enumerate(texts)))
    again = Segment.from_bytes(memoryview(segment.to_bytes()))
    live = np.ones(len(texts), dtype=bool)
    assert again.to_bytes() == segment.to_bytes()
    assert np.array_equal(Lexical([again], live).scored(query).every, Lexical([segment], live).scored(query).every)


def test_arrays_are_views_of_the_bytes_they_came_from() -> None:
    data = Segment.build([(0, "one two three"), (1, "two")]).to_bytes()
    segment = Segment.from_bytes(data)
    assert not segment.postings_rows.flags.owndata
    assert not segment.postings_rows.flags.writeable
    assert segment.blob.obj is data


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_or_cut_segment_is_refused(data: st.DataObject) -> None:
    whole = Segment.build([(0, "a lighthouse keeper"), (5, "keeps the light")]).to_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (bytes(flipped), whole[:place], whole + b"\0"):
        with pytest.raises(IntegrityError):
            Segment.from_bytes(damaged)


def test_a_segment_of_other_rules_is_refused_with_a_hint() -> None:
    whole = bytearray(Segment.build([(0, "words")]).to_bytes())
    whole[16:48] = b"en-0+snowball-1.0".ljust(32, b"\0")
    struct.pack_into("<I", whole, 8, zlib.crc32(memoryview(whole)[12:]))
    with pytest.raises(IntegrityError, match="other rules") as caught:
        Segment.from_bytes(whole)
    assert caught.value.hint


def test_a_row_in_two_segments_is_refused_unless_dead() -> None:
    twice = [Segment.build([(0, "one"), (1, "two")]), Segment.build([(1, "two")])]
    with pytest.raises(IntegrityError, match="row 1"):
        Lexical(twice, np.array([True, True]))
    assert Lexical(twice, np.array([True, False])).size == 1


def test_rows_named_twice_or_too_large_are_refused() -> None:
    for rows in ([(0, "a"), (0, "b")], [(-1, "a")], [(2**32, "a")]):
        with pytest.raises(UserError, match="distinct"):
            Segment.build(rows)


def test_an_empty_index_answers_nothing() -> None:
    lexical = Lexical([], np.zeros(0, dtype=bool))
    rows, scores = lexical.top("anything", 5)
    assert (len(rows), len(scores), lexical.size) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The Budgets of running costs", ["budget", "run", "cost"]),
        ("It's 3.11, not 1,000", ["3", "11", "1", "000"]),
        ("max_batch_size", ["max", "batch", "size"]),
        ("日本語テキスト and text", ["日", "本", "語", "テ", "キ", "ス", "ト", "text"]),
        ("Straße CAFÉ cafe\u0301", ["straße", "café", "café"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("\0\ud800 🦀 \n", []),
        ("", []),
    ],
)
def test_analysis(text: str, terms: list[str]) -> None:
    assert analyze(text) == terms


def test_many_threads_analyse_alike() -> None:
    texts = [f"running{n} happily{n % 97} national{n % 13} tests" for n in range(400)]
    alone = [analyze(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(analyze, texts * 4)) == alone * 4
