"""A first look at many vectors: one bit a dimension says who can be near, and only those are scored exactly.

A scan of a million vectors reads 1.5 GB; their sign bits are 48 MB. The share of equal signs follows the angle between
two vectors, so the nearest lie, with few exceptions, among the few thousand with the most equal signs. Knows vectors by
slot; it decides no order that anybody sees, and is asked only about slots that the reader may see.

Source: Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002, section 3, with the axes in
place of random hyperplanes: learned embeddings need no rotation to have their variance spread over them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmops.rag.arena import Vectors

Words = NDArray[np.uint64]
Slots = NDArray[np.int64]

_BLOCK = 1 << 15
"""Slots looked at together: what is in work stays in the processor's cache."""


class Codes:
    """The sign bits of the first `size` slots of one file; slots never change, so codes are only ever added to."""

    def __init__(self, words: Words) -> None:
        """Take bits in words of 64, word by word: those of slot s are `words[:, s]`."""
        self._words = words

    @classmethod
    def of(cls, vectors: Vectors, known: Codes | None = None) -> Codes:
        """The codes of all vectors.

        Args:
            known: codes of the same file when it was shorter; they are not reckoned again.
        """
        count, dimension = vectors.shape
        words = np.zeros((-(-dimension // 64), count), dtype=np.uint64)
        done = 0
        if known is not None:
            done = min(count, known.size)
            words[:, :done] = known._words[:, :done]
        for start in range(done, count, _BLOCK):
            words[:, start : start + _BLOCK] = _bits(vectors[start : start + _BLOCK])
        return cls(words)

    @property
    def size(self) -> int:
        return int(self._words.shape[1])

    def likely(self, vector: Vectors, slots: Slots | None, count: int) -> NDArray[np.int64]:
        """Places in `slots` of those whose signs agree most with the vector's: `count` or, where many tie, more.

        Args:
            slots: None for all of them, in order.
        """
        distances = self._distances(vector)
        if slots is not None:
            distances = distances[slots]
        if len(distances) <= count:
            return np.arange(len(distances))
        edge = np.partition(distances, count - 1)[count - 1]
        return np.flatnonzero(distances <= edge)

    def _distances(self, vector: Vectors) -> NDArray[np.uint16]:
        """The number of unequal signs, by slot."""
        wanted = _bits(vector[None, :])
        distances = np.empty(self.size, dtype=np.uint16)
        for start in range(0, self.size, _BLOCK):
            unequal = np.bitwise_count(self._words[:, start : start + _BLOCK] ^ wanted)
            np.add.reduce(unequal, axis=0, dtype=np.uint16, out=distances[start : start + _BLOCK])
        return distances


def _bits(vectors: Vectors) -> Words:
    packed = np.packbits(vectors > 0, axis=1)
    if spare := -packed.shape[1] % 8:
        packed = np.pad(packed, ((0, 0), (0, spare)))
    return np.ascontiguousarray(packed.view(np.uint64).T)
