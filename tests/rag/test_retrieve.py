"""Retrieval: the filter comes first, both searches judge every candidate, copies collapse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rag.test_lexical import naive
from tests.support.handbook import handbook
from tests.support.indexes import NAME, Workplace
from tests.support.memory_index import MemoryDocument, MemoryIndex

from llmops.core.identity import LOCAL, Principal
from llmops.rag.config import RetrievalConfig
from llmops.rag.index import snapshot
from llmops.rag.index.reader import Index
from llmops.rag.retrieve import Retriever, fuse, rank

HR = Principal("kari", groups=frozenset({"hr"}))


def uris(question: str, principal: Principal = LOCAL, **settings: object) -> list[str]:
    index, embedder = handbook()
    retriever = Retriever(lambda: index, embedder)
    found = retriever.retrieve(question, principal, settings.get("filters"))  # type: ignore[arg-type]
    return [passage.chunk.uri for passage in found.passages]


def test_best_passage_comes_first() -> None:
    assert uris("How many litres per minute does the pump move?")[0] == "docs/manual.md"


def test_private_document_is_never_scored() -> None:
    index, embedder = handbook()
    question = "What is the salary of Ingrid Halvorsen?"
    private = {row for row in range(index.size) if index.chunks(np.array([row]))[0].uri.startswith("hr/")}
    found = Retriever(lambda: index, embedder).retrieve(question, LOCAL)
    assert private
    assert not private & index.scored
    assert all(passage.chunk.uri != "hr/salaries.md" for passage in found.passages)
    assert uris(question, HR)[0] == "hr/salaries.md"


def test_metadata_filter_narrows_but_never_widens() -> None:
    assert set(uris("Ingrid Halvorsen", filters={"product": "pump"})) == {"docs/manual.md"}
    assert uris("Ingrid Halvorsen", filters={"product": "ship"}) == []


def test_copies_leave_room_for_others() -> None:
    copies = [MemoryDocument(f"{n}.md", "The red valve closes the main water pipe at night.") for n in range(20)]
    other = MemoryDocument("other.md", "A red lamp shows that the water pipe leaks.")
    index = MemoryIndex([*copies, other])
    _, embedder = handbook()
    config = RetrievalConfig(top_k=3)
    found = Retriever(lambda: index, embedder, config).retrieve("red valve water pipe", LOCAL)
    assert [passage.chunk.uri for passage in found.passages] == ["0.md", "other.md"]


def test_a_ranking_is_that_of_its_formulas_over_all_rows(tmp_path, monkeypatch) -> None:
    """As they stand: every row scored by both searches, whatever is kept, skipped or looked at first."""
    monkeypatch.setattr(snapshot, "CODED_FROM", 1)
    place = Workplace.at(tmp_path)
    for n in range(60):
        words = (f"topic{n % 9} word{n % 4} thing{n % 13} note{n * p}" for p in range(4))
        place.write(f"d{n}.md", f"# Title {n}\n\n" + "\n\n".join(f"{text} " * 4 for text in words))
    index, config = Index.open(place.state, NAME, place.refresh().head.generation), RetrievalConfig(pool=12)
    try:
        reader = index.reader()
        texts = {n: f"{chunk.context}\n{chunk.text}" for n, chunk in enumerate(reader.chunks(range(reader.size)))}
        vectors = place.embedder.embed(list(texts.values()))
        questions = ("topic3 word2", "thing5 note12 topic1", "title 7", "nothing known", "word1 word1")
        for n, question in enumerate(questions):
            allowed = None if n % 2 else np.arange(reader.size) % 3 > 0
            vector = place.embedder.embed_query(question)
            rows, scores = formulas(texts, vectors @ vector, question, allowed, config)
            ranking = rank(reader, question, vector, allowed, config)
            assert sorted(ranking.rows.tolist()) == sorted(rows.tolist())
            assert np.allclose(ranking.scores[np.argsort(ranking.rows)], scores[np.argsort(rows)], atol=1e-5)
            assert (np.diff(ranking.scores) <= 0).all()
    finally:
        index.close()


def formulas(texts: dict[int, str], dense, question: str, allowed, config: RetrievalConfig):
    """(rows, scores), best first."""
    lexical = naive(texts, question, len(texts))
    may = [row for row in texts if allowed is None or allowed[row]]
    by_meaning = sorted(may, key=lambda row: (-dense[row], row))[: config.pool]
    by_words = sorted((row for row in may if lexical[row] > 0), key=lambda row: (-lexical[row], row))[: config.pool]
    pool = np.array(sorted({*by_meaning, *by_words}))
    fused = fuse(dense[pool], lexical[pool], config.dense_weight)
    order = np.lexsort((pool, -fused))
    return pool[order], fused[order]


def test_order_is_the_same_every_time() -> None:
    index, embedder = handbook()
    vector = embedder.embed_query("pump water valve")
    rankings = [rank(index, "pump water valve", vector, None, RetrievalConfig()) for _ in range(3)]
    assert all(np.array_equal(rankings[0].rows, other.rows) for other in rankings)
    assert list(rankings[0].scores) == sorted(rankings[0].scores, reverse=True)


def test_question_without_any_known_word_still_finds_by_meaning_or_nothing_breaks() -> None:
    assert isinstance(uris("zzz qqq"), list)
    assert Retriever(lambda: MemoryIndex([]), handbook()[1]).retrieve("anything", LOCAL).passages == ()


scores = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=30)


@given(scores, st.floats(0.5, 100), st.floats(-50, 50))
def test_fusion_ignores_scale_and_offset(values: list[float], scale: float, offset: float) -> None:
    dense = np.array(values, dtype=np.float32)
    if dense.std() < 1e-3:
        return
    lexical = dense[::-1].copy()
    moved = (lexical.astype(np.float64) * scale + offset).astype(np.float32)
    np.testing.assert_allclose(fuse(dense, lexical, 0.6), fuse(dense, moved, 0.6), atol=0.05)


def test_fusion_of_equal_scores_is_no_division_by_zero() -> None:
    flat = np.full(5, 0.25, dtype=np.float32)
    assert np.array_equal(fuse(flat, flat, 0.6), np.zeros(5, dtype=np.float32))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_weight_of_one_search_is_that_search(weight: float) -> None:
    dense = np.array([0.1, 0.9, 0.5], dtype=np.float32)
    lexical = np.array([7.0, 1.0, 3.0], dtype=np.float32)
    expected = dense if weight else lexical
    assert list(np.argsort(-fuse(dense, lexical, weight))) == list(np.argsort(-expected))
