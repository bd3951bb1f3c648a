"""A deterministic embedder without a model: a text's vector follows from its words, so that near texts lie near."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

DIMENSION = 48


class WordEmbedder:
    """Sums a random direction a word. `texts` counts what it was asked to embed."""

    def __init__(self, fingerprint: str = "words-1", dimension: int = DIMENSION) -> None:
        self.fingerprint = fingerprint
        self.dimension = dimension
        self.texts: list[str] = []
        self._words: dict[str, NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str], on_batch: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        self.texts += texts
        if on_batch is not None:
            on_batch(len(texts))
        return np.stack([self.vector(text) for text in texts])

    def embed_query(self, text: str) -> NDArray[np.float32]:
        return self.vector(text)

    def vector(self, text: str) -> NDArray[np.float32]:
        total = np.full(self.dimension, 1e-3, dtype=np.float32)
        for word in text.lower().split():
            total += self._word(word)
        return total / np.linalg.norm(total)

    def _word(self, word: str) -> NDArray[np.float32]:
        if word not in self._words:
            seed = int.from_bytes(hashlib.sha256(f"{self.fingerprint} {word}".encode()).digest()[:8], "big")
            self._words[word] = np.random.default_rng(seed).normal(size=self.dimension).astype(np.float32)
        return self._words[word]
