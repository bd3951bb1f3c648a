"""A small index in memory and a small embedder, so that answering can be tested without models or a store.

The index searches for real (BM25 by `llmops.rag.lexical`, exact cosine) and filters for real; only nothing is kept. The
embedder hashes stemmed words into a vector: texts with common words are near, others are not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import NotFoundError
from llmops.core.identity import Principal
from llmops.rag.lexical import Lexical, Scored, Segment, analyze

DIMENSION = 512


class HashingEmbedder:
    """Unit vectors of hashed word counts."""

    fingerprint = "test-hashing-1"

    def embed(self, texts: Sequence[str], on_batch: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        for row, text in enumerate(texts):
            for term in analyze(text):
                vectors[row, zlib.crc32(term.encode()) % DIMENSION] += 1.0
        norms = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
        norms[norms == 0] = 1.0
        unit: NDArray[np.float32] = vectors / norms
        return unit

    def embed_query(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self.embed([text])[0]
        return vector


@dataclass(frozen=True)
class MemoryChunk:
    id: str
    uri: str
    title: str | None
    page: int | None
    start: int
    end: int
    text: str
    context: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    number: int
    start: int
    end: int


@dataclass(frozen=True)
class MemoryDocument:
    """One document; each paragraph becomes a chunk, or each page where pages are given."""

    uri: str
    text: str
    title: str | None = None
    acl: frozenset[str] = frozenset({"everyone"})
    metadata: dict[str, Any] = field(default_factory=dict)
    pages: tuple[Page, ...] = ()

    def chunks(self) -> list[MemoryChunk]:
        spans = [(page.start, page.end, page.number) for page in self.pages]
        if not spans:
            place = 0
            for part in self.text.split("\n\n"):
                spans.append((place, place + len(part), 0))
                place += len(part) + 2
        return [
            MemoryChunk(
                f"{self.uri}#{n}",
                self.uri,
                self.title,
                page or None,
                start,
                end,
                self.text[start:end],
                self.title or "",
                self.metadata,
            )
            for n, (start, end, page) in enumerate(spans)
            if self.text[start:end].strip()
        ]


@dataclass(frozen=True)
class MemoryHead:
    generation: str = "g1"
    seq: int = 7
    digest: str = "0" * 64


@dataclass(frozen=True)
class MemoryHits:
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


class MemoryIndex:
    """One state of an index, read by any number of threads. `scored` collects every row that a search gave a score."""

    def __init__(self, documents: Sequence[MemoryDocument], embedder: HashingEmbedder | None = None) -> None:
        self.head = MemoryHead()
        self._documents = {document.uri: document for document in documents}
        self._chunks = [chunk for document in documents for chunk in document.chunks()]
        texts = [f"{chunk.context}\n{chunk.text}" for chunk in self._chunks]
        self._vectors = (embedder or HashingEmbedder()).embed(texts)
        self._lexical = Lexical([Segment.build(enumerate(texts))], np.ones(len(texts), dtype=np.bool_))
        self.scored: set[int] = set()

    @property
    def size(self) -> int:
        return len(self._chunks)

    def allowed(self, principal: Principal, filters: dict[str, Any]) -> NDArray[np.bool_]:
        documents = [self._documents[chunk.uri] for chunk in self._chunks]
        return np.array(
            [
                principal.reads(document.acl) and all(document.metadata.get(k) == v for k, v in filters.items())
                for document in documents
            ],
            dtype=np.bool_,
        )

    def dense(self, vector: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None) -> MemoryHits:
        scores = self._vectors @ vector
        rows = np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed)
        best = rows[np.argsort(-scores[rows], kind="stable")][:k]
        return MemoryHits(best, scores[best])

    def dense_scores(self, vector: NDArray[np.float32], rows: NDArray[Any]) -> NDArray[np.float32]:
        self.scored.update(int(row) for row in rows)
        scores: NDArray[np.float32] = self._vectors[rows] @ vector
        return scores

    def lexical(self, query: str) -> Scored:
        return self._lexical.scored(query)

    def chunks(self, rows: NDArray[Any]) -> list[MemoryChunk]:
        return [self._chunks[int(row)] for row in rows]

    def document(self, uri: str, principal: Principal) -> MemoryDocument:
        document = self._documents.get(uri)
        if document is None or not principal.reads(document.acl):
            raise NotFoundError("no such document", where=uri)
        return document
