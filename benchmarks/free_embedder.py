"""An embedder that costs next to nothing, to measure what an ingest costs besides embedding. No model, numpy only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

DIMENSION = 384
_POOL = np.random.default_rng(7).normal(size=(4096, DIMENSION)).astype(np.float32)


class FreeEmbedder:
    """A unit vector that follows from the text's hash; counts what it was asked for."""

    fingerprint = "free-1"
    dimension = DIMENSION

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, texts: Sequence[str], on_batch: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        self.embedded += len(texts)
        hashes = [hashlib.sha256(text.encode()).digest() for text in texts]
        places = np.array([[int.from_bytes(h[:4], "big"), int.from_bytes(h[4:8], "big")] for h in hashes]) % len(_POOL)
        vectors = _POOL[places[:, 0]] + _POOL[places[:, 1]]
        if on_batch is not None:
            on_batch(len(texts))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
