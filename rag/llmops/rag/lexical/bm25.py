"""BM25 over the live rows of a set of segments, exactly as if only those rows had ever been indexed.

Knows statistics and scores. A deletion costs nothing until a query: counts are taken over live rows when asked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import IntegrityError
from llmops.rag.lexical.analyzer import analyze
from llmops.rag.lexical.segment import Segment, alive

K1 = 1.5
B = 0.75


class Lexical:
    """A set of segments and which of their rows are live; immutable, so safe to share between threads.

    Score of a row for a query, summed over the query's terms in order of first appearance:
        count_in_query * ln(1 + (N - df + .5) / (df + .5)) * tf / (tf + k1 * (1 - b + b * length / mean length))

    Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, section 3, with
    Lucene's non-negative idf. Reckoned in float64 in one order, so that segments and deletions do not show.
    """

    def __init__(self, segments: Sequence[Segment], live: NDArray[np.bool_], *, k1: float = K1, b: float = B) -> None:
        """Take rows 0 to len(live) - 1; a row past the end is dead.

        Raises:
            IntegrityError: two segments hold the same live row.
        """
        self._segments = tuple(segments)
        lengths = np.zeros(len(live), dtype=np.int64)
        held = np.zeros(len(live), dtype=np.uint8)
        self._whole = []
        for segment in self._segments:
            kept = alive(segment.rows, live)
            self._whole.append(bool(kept.all()))
            rows = segment.rows[kept]
            lengths[rows] = segment.lengths[kept]
            held[rows] += 1
        if (held > 1).any():
            raise IntegrityError(f"row {int(np.argmax(held > 1))} lies in more than one lexical segment")
        self._live = held.astype(np.bool_)
        self.size = int(np.count_nonzero(held))
        mean = int(lengths.sum()) / self.size if self.size else 0.0
        self._norms = k1 * ((1.0 - b) + b * (lengths / (mean or 1.0)))

    def scores(self, query: str) -> NDArray[np.float32]:
        """The score of every row; 0 where it is dead or shares no term with the query."""
        total = np.zeros(len(self._live), dtype=np.float64)
        for weight, postings in self._weighted(query):
            for rows, counts in postings:
                total[rows] += weight * (counts / (counts + self._norms[rows]))
        return total.astype(np.float32)

    def scores_at(self, query: str, rows: NDArray[Any]) -> NDArray[np.float32]:
        """`scores(query)[rows]`, at a cost that grows with `rows` and not with the postings."""
        total = np.zeros(len(rows), dtype=np.float64)
        wanted = np.asarray(rows)
        for weight, postings in self._weighted(query):
            for held, held_counts in postings:
                places = np.minimum(np.searchsorted(held, wanted), len(held) - 1)
                hit = np.flatnonzero(held[places] == wanted)
                counts = held_counts[places[hit]]
                total[hit] += weight * (counts / (counts + self._norms[wanted[hit]]))
        return total.astype(np.float32)

    def top(
        self, query: str, k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best rows that share a term with the query, best first, the lower row first among equals.

        Args:
            allowed: by row number; what it leaves out is never returned (its statistics still count).
        """
        scores = self.scores(query)
        if allowed is not None:
            scores[~allowed] = 0.0
        found = np.flatnonzero(scores > 0.0)  # five times faster than asking floats whether they are zero
        if len(found) > k > 0:
            edge = np.partition(scores[found], len(found) - k)[len(found) - k]
            found = found[scores[found] >= edge]
        best = found[np.lexsort((found, -scores[found]))][: max(k, 0)]
        return best, scores[best]

    def _weighted(self, query: str) -> Iterator[tuple[float, list[tuple[NDArray[np.uint32], NDArray[np.uint16]]]]]:
        """Each distinct term of the query that a live row holds: its weight, and its live postings by segment."""
        for term, repeats in Counter(analyze(query)).items():
            postings = []
            for segment, whole in zip(self._segments, self._whole, strict=True):
                rows, counts = segment.postings(term)
                if not whole:
                    kept = alive(rows, self._live)
                    rows, counts = rows[kept], counts[kept]
                if len(rows):
                    postings.append((rows, counts))
            held = sum(len(rows) for rows, _ in postings)
            if held:
                yield repeats * math.log(1.0 + (self.size - held + 0.5) / (held + 0.5)), postings
