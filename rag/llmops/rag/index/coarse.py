"""Two looks at many vectors: one bit a dimension says who can be near, and only those are scored exactly.

A scan of a million vectors reads 1.5 GB; their sign bits are 48 MB. The share of equal signs follows the angle between
two vectors, so the nearest lie, with few exceptions, among the few thousand with the most equal signs. Of those, a
second look counts each unequal sign as much as the question leans to its side there: a fifth of them holds as many of
the nearest. Knows vectors by slot; it decides no order that anybody sees, and is asked only about slots that the reader
may see.

Source: Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002, section 3, with the axes in
place of random hyperplanes: learned embeddings need no rotation to have their variance spread over them. The second
look: Gao and Long, "RaBitQ", SIGMOD 2024, section 3.3.2, a question of few bits against stored signs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.rag.arena import Vectors

Words = NDArray[np.uint64]
Slots = NDArray[np.int64]

_BLOCK = 1 << 15
"""Slots looked at together: what is in work stays in the processor's cache."""
_WIDER = 5
"""Times as many as are asked for pass the first look."""
_UNIT = 0.8
"""One unit of weight, in root mean squares of the question's components; the greatest weight is 3."""


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
            words[:, start : start + _BLOCK] = _bits(vectors[start : start + _BLOCK] > 0)
        return cls(words)

    @property
    def size(self) -> int:
        return int(self._words.shape[1])

    def likely(self, vector: Vectors, slots: Slots | None, count: int) -> NDArray[np.int64]:
        """Places in `slots` of those that are likely nearest to the vector: `count` or, where many tie, more.

        Args:
            slots: None for all of them, in order.
        """
        distances = self._distances(vector)
        if slots is not None:
            distances = distances[slots]
        if len(distances) <= count:
            return np.arange(len(distances))
        first = _least(distances, _WIDER * count)
        return first[_least(self._weighed(vector, first if slots is None else slots[first]), count)]

    def _distances(self, vector: Vectors) -> NDArray[np.uint16]:
        """The number of unequal signs, by slot."""
        wanted = _bits(vector[None, :] > 0)
        distances = np.empty(self.size, dtype=np.uint16)
        for start in range(0, self.size, _BLOCK):
            unequal = np.bitwise_count(self._words[:, start : start + _BLOCK] ^ wanted)
            np.add.reduce(unequal, axis=0, dtype=np.uint16, out=distances[start : start + _BLOCK])
        return distances

    def _weighed(self, vector: Vectors, slots: Slots) -> NDArray[np.uint32]:
        """The weights of the unequal signs of some slots, summed: the less, the likelier is the slot near."""
        unit = _UNIT * float(np.sqrt(np.mean(np.square(vector)))) or 1.0
        weights = np.minimum(np.rint(np.abs(vector) / unit), 3).astype(np.uint8)
        signs, ones, twos = np.hsplit(_bits(np.stack([vector > 0, weights & 1 > 0, weights > 1])), 3)
        unequal = self._words.take(slots, axis=1) ^ signs
        total: NDArray[np.uint32] = np.add.reduce(np.bitwise_count(unequal & twos), axis=0, dtype=np.uint32)
        total += total
        total += np.add.reduce(np.bitwise_count(unequal & ones), axis=0, dtype=np.uint32)
        return total


def _least(values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Places of the `count` least values, and of all that equal the greatest of them."""
    if len(values) <= count:
        return np.arange(len(values))
    spare = len(values) // 8 + 1  # numpy looks for true ones without branches only where more than a tenth are
    low = np.ones(len(values) + spare, dtype=np.bool_)
    np.less_equal(values, np.partition(values, count - 1)[count - 1], out=low[:-spare])
    return np.flatnonzero(low)[:-spare]


def _bits(positive: NDArray[np.bool_]) -> Words:
    packed = np.packbits(positive, axis=1)
    if spare := -packed.shape[1] % 8:
        packed = np.pad(packed, ((0, 0), (0, spare)))
    return np.ascontiguousarray(packed.view(np.uint64).T)
