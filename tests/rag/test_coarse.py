"""The first look at many vectors: it finds who is near, never who may not be seen, and grows without starting over."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.indexes import NAME, Workplace

from llmops.core.identity import LOCAL
from llmops.rag.index import reader, snapshot
from llmops.rag.index.coarse import Codes
from llmops.rag.index.reader import Index


def vectors(count: int, dimension: int = 384, seed: int = 0) -> np.ndarray:
    """Clustered as embeddings are: each near one of a few hundred centres."""
    chance = np.random.default_rng(seed)
    centres = chance.normal(size=(300, dimension))
    found = centres[chance.integers(300, size=count)] + chance.normal(size=(count, dimension))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_the_nearest_are_among_the_likely() -> None:
    held = vectors(40_000)
    codes, slots, found = Codes.of(held), np.arange(40_000), []
    for query in vectors(40_020)[40_000:]:
        best = set(np.argsort(-(held @ query))[:10].tolist())
        found.append(len(best & set(codes.likely(query, slots, 2_000).tolist())) / 10)
    assert np.mean(found) > 0.97


@pytest.mark.parametrize("dimension", [1, 63, 64, 65, 384])
def test_distances_are_the_numbers_of_unequal_signs(dimension: int) -> None:
    held = vectors(500, dimension)
    query = vectors(501, dimension)[500]
    unequal = ((held > 0) != (query > 0)).sum(axis=1)
    assert Codes.of(held)._distances(query).tolist() == unequal.tolist()
    assert Codes.of(held, Codes.of(held[:77])).likely(query, np.arange(500), 500).tolist() == list(range(500))
    assert Codes.of(held, Codes.of(held[:77]))._distances(query).tolist() == unequal.tolist()


def test_only_slots_that_were_asked_about_are_recommended_and_ties_at_the_edge_all_stay() -> None:
    held = np.repeat(vectors(10), 100, axis=0)
    slots = np.arange(0, 1000, 2)
    likely = Codes.of(held).likely(held[0], slots, 7)
    assert set(slots[likely].tolist()) == set(range(0, 100, 2))
    assert Codes.of(held).likely(held[0], slots[:0], 7).tolist() == []


def test_a_reader_by_codes_answers_as_one_that_scores_every_row(tmp_path, monkeypatch) -> None:
    place = Workplace.at(tmp_path)
    for n in range(40):
        place.write(f"d{n}.md", f"# Title {n}\n\n" + "\n\n".join(f"topic{n} paragraph{p} word " * 5 for p in range(5)))
    index = Index.open(place.state, NAME, place.refresh().head.generation)
    try:
        exact = [index.reader().dense(place.embedder.embed_query(f"topic{n}"), 5) for n in range(20)]
    finally:
        index.close()
    monkeypatch.setattr(snapshot, "CODED_FROM", 1)
    monkeypatch.setattr(reader, "SCANNED_WHOLE", 1)
    monkeypatch.setattr(reader, "CANDIDATES", 150)
    index = Index.open(place.state, NAME, place.refresh().head.generation)
    try:
        coded = index.reader()
        for n, expected in enumerate(exact):
            hits = coded.dense(place.embedder.embed_query(f"topic{n}"), 5)
            assert np.allclose(hits.scores, expected.scores)
        mask = np.zeros(coded.size, dtype=np.bool_)
        mask[::3] = True
        hits = coded.dense(place.embedder.embed_query("topic3"), 500, mask)
        assert set(hits.rows.tolist()) <= set(np.flatnonzero(mask).tolist())
        place.write("new.md", "# New\n\nanother word")
        place.refresh()
        with index._lock:  # as the thread that follows does
            index._check()
        assert index.reader()._snapshot.codes.size == index.reader()._snapshot.vectors.shape[0] > coded.size
        assert coded.allowed(LOCAL, {}) is None
    finally:
        index.close()
