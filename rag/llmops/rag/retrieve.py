"""Finds the passages that may answer a question: filter first, search twice, judge every candidate by both searches.

Knows rows and scores of one index reader, and how to fuse them. It reads no file, asks no language model, and never
sees a row that the filter left out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llmops.core.chain import PassageRef
from llmops.core.identity import Principal
from llmops.core.tracing import span
from llmops.rag.config import RetrievalConfig
from llmops.rag.refine import CrossScores, refine, wanted, widen
from llmops.rag.turns import Turns
from llmops.rag.wording import Wording

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]

_SEARCHING = 2
"""Searches at once: they hold the interpreter most of their 5 ms, and 50 at once take a third longer to take turns."""


class Hits(Protocol):
    """Rows of an index, best first, with their scores."""

    @property
    def rows(self) -> NDArray[Any]: ...
    @property
    def scores(self) -> NDArray[Any]: ...


class WordScores(Protocol):
    """What the words of a question say of every row of an index, the reader's or not: only `top` knows of access."""

    def at(self, rows: Rows) -> NDArray[Any]: ...
    def top(self, k: int, allowed: Mask | None) -> tuple[NDArray[Any], NDArray[Any]]: ...


class Chunk(Protocol):
    """One indexed unit as the index keeps it."""

    @property
    def id(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def title(self) -> str | None: ...
    @property
    def page(self) -> int | None: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def context(self) -> str: ...


class StoredDocument(Protocol):
    """A document's text as it was indexed, for whoever may read it."""

    @property
    def uri(self) -> str: ...
    @property
    def title(self) -> str | None: ...
    @property
    def text(self) -> str: ...
    @property
    def pages(self) -> Sequence[Any]: ...


class Head(Protocol):
    @property
    def generation(self) -> str: ...
    @property
    def seq(self) -> int: ...


class SearchIndex(Protocol):
    """What retrieval asks of one consistent state of an index."""

    @property
    def head(self) -> Head: ...
    @property
    def size(self) -> int: ...
    def allowed(self, principal: Principal, filters: dict[str, Any]) -> Mask | None: ...
    def values(self, principal: Principal, names: Iterable[str], most: int) -> Mapping[str, Sequence[Hashable]]: ...
    def dense(self, vector: Scores, k: int, allowed: Mask | None) -> Hits: ...
    def dense_scores(self, vector: Scores, rows: NDArray[Any]) -> NDArray[Any]: ...
    def lexical(self, query: str) -> WordScores: ...
    def chunks(self, rows: NDArray[Any]) -> Sequence[Chunk]: ...
    def document(self, uri: str, principal: Principal) -> StoredDocument: ...


class Documents(Protocol):
    """Opens the documents that a search found."""

    def document(self, uri: str, principal: Principal) -> StoredDocument: ...


class QueryEmbedder(Protocol):
    """What retrieval asks of an embedder: unit vectors."""

    def embed(self, texts: list[str]) -> Scores: ...
    def embed_query(self, text: str) -> Scores: ...


@dataclass(frozen=True)
class Found:
    """One passage, with the scores that put it here."""

    chunk: Chunk
    score: float
    dense: float
    lexical: float
    index: str | None = None
    """Which one, where several are asked."""

    def ref(self) -> PassageRef:
        chunk = self.chunk
        return PassageRef(
            chunk.uri,
            chunk.start,
            chunk.end,
            chunk.text,
            page=chunk.page,
            title=chunk.title,
            score=round(self.score, 4),
            index=self.index,
        )


@dataclass(frozen=True)
class Retrieved:
    """The passages for one question, best first, and the state of the index that they come from."""

    question: str
    vector: Scores
    passages: tuple[Found, ...]
    generation: str
    index_seq: int
    index: Documents


@dataclass(frozen=True)
class Ranking:
    """Every pooled row, best first, before duplicates go and texts are read."""

    rows: Rows
    scores: Scores
    dense: Scores
    lexical: Scores


class Search(Protocol):
    """One search of whoever asks, under their rights and filters."""

    def __call__(self, question: str, /) -> Retrieved: ...


class Retriever:
    """Searches whatever state of the index is current. Safe to share between threads."""

    def __init__(
        self,
        reader: Callable[[], SearchIndex],
        embedder: QueryEmbedder,
        config: RetrievalConfig | None = None,
        cross: CrossScores | None = None,
    ) -> None:
        self._reader = reader
        self._embedder = embedder
        self._cross = cross
        self._turns = Turns(_SEARCHING)
        self.config = config or RetrievalConfig()

    def retrieve(
        self,
        question: str,
        principal: Principal,
        filters: Mapping[str, Any] | None = None,
        config: RetrievalConfig | None = None,
    ) -> Retrieved:
        """The `top_k` best passages that this principal may read and the filters admit."""
        config = config or self.config
        index = self._reader()
        with span("embeddings", {"gen_ai.operation.name": "embeddings"}) as told:
            vector = self._embedder.embed_query(question)
            told.set({"gen_ai.embeddings.dimension.count": len(vector)})
        with span("search", {"llmops.search.filters": sorted(filters or {})}) as told:
            with self._turns.taken():
                allowed = index.allowed(principal, dict(filters or {}))
                ranking = rank(index, question, vector, allowed, config)
            if told.recording:
                rows = index.size if allowed is None else int(np.count_nonzero(allowed))
                told.set({"llmops.search.rows": rows, "llmops.search.pooled": len(ranking.rows)})
        with span("rerank", {"gen_ai.request.model": config.rerank.model if config.rerank else None}) as told:
            passages = refine(question, _distinct(index, ranking, wanted(config)), config, self._cross)
            if config.expand != "none":
                passages = widen(passages, config.expand, index, principal)
            told.set({"llmops.retrieval.passages": len(passages)})
        return Retrieved(question, vector, passages, index.head.generation, index.head.seq, index)


def rank(index: SearchIndex, question: str, vector: Scores, allowed: Mask | None, config: RetrievalConfig) -> Ranking:
    """Pool the best of both searches, score each candidate by both, and fuse the standardised scores.

    Ranks (reciprocal rank fusion) throw away how far apart the scores are, and no one weight of them serves both
    keyword-like claims and many-step questions; standardised scores over one pool do. They are not clipped: a passage
    far above the rest of the pool is far above it for a reason.
    """
    with span("dense"):
        by_meaning = np.asarray(index.dense(vector, config.pool, allowed).rows, dtype=np.int64)
    with span("lexical"):
        words = index.lexical(question)
        by_words = np.asarray(words.top(config.pool, allowed)[0], dtype=np.int64)
    with span("fuse"):
        pool = np.union1d(by_meaning, by_words)
        dense = np.asarray(index.dense_scores(vector, pool), dtype=np.float32)
        return _fused(pool, dense, np.asarray(words.at(pool), dtype=np.float32), config.dense_weight)


def _fused(pool: Rows, dense: Scores, lexical: Scores, dense_weight: float) -> Ranking:
    if not len(pool):
        return Ranking(pool, dense, dense, lexical)
    fused = fuse(dense, lexical, dense_weight)
    order = np.lexsort((pool, -fused))
    return Ranking(pool[order], fused[order], dense[order], lexical[order])


def fuse(dense: Scores, lexical: Scores, dense_weight: float) -> Scores:
    """One score from two, each standardised over the pool so that their scales do not matter."""
    return dense_weight * standardised(dense) + (1.0 - dense_weight) * standardised(lexical)


def standardised(scores: Scores) -> Scores:
    """Scores in standard deviations from their mean; zeros where they do not differ."""
    spread = float(scores.std())
    return (scores - scores.mean()) / spread if spread > 1e-9 else np.zeros_like(scores)


def _distinct(index: SearchIndex, ranking: Ranking, top_k: int) -> tuple[Found, ...]:
    """The best rows whose texts differ: a copied page must not crowd out the second best answer."""
    kept: list[Found] = []
    seen: list[Wording] = []
    for start in range(0, len(ranking.rows), top_k):
        if len(kept) >= top_k:
            break
        rows = ranking.rows[start : start + top_k]
        for place, chunk in enumerate(index.chunks(rows), start):
            wording = Wording(chunk.text)
            if any(wording.is_like(other) for other in seen):
                continue
            seen.append(wording)
            dense, lexical = float(ranking.dense[place]), float(ranking.lexical[place])
            kept.append(Found(chunk, float(ranking.scores[place]), dense, lexical))
    return tuple(kept[:top_k])
