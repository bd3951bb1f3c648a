"""BM25 over the live rows of a set of segments, exactly as if only those rows had ever been indexed.

Knows statistics and scores. A deletion costs nothing until a query: counts are taken over live rows when asked. What
a term gives to each row is the same for every query, so it is kept for the next, as far as that is bounded.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import IntegrityError
from llmops.rag.lexical.analyzer import analyze
from llmops.rag.lexical.segment import Segment, alive

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]

K1 = 1.5
B = 0.75

_KEPT_POSTINGS = 3_000_000
"""Postings whose shares are kept, of 12 bytes each: the common terms' cost most, and come with most queries."""
_EACH_TERM = 32
"""What a term costs besides, in postings: rare and unknown ones must not fill the memory either."""


@dataclass(frozen=True, slots=True)
class _Term:
    """A term's live rows; of each, tf / (tf + k1 * (1 - b + b * length / mean length)); and its idf."""

    rows: NDArray[np.uint32]
    shares: NDArray[np.float64]
    rarity: float


_UNKNOWN = _Term(np.zeros(0, dtype=np.uint32), np.zeros(0, dtype=np.float64), 0.0)


class Scored:
    """What the words of one query say of every row; reckoned once, asked as often as one likes."""

    def __init__(self, every: Scores, held: Sequence[NDArray[np.uint32]]) -> None:
        """Take the scores, and the rows that hold each term of the query."""
        self.every = every
        """By row; 0 where it is dead or shares no term with the query."""
        self._held = held

    def at(self, rows: NDArray[Any]) -> Scores:
        scores: Scores = self.every[rows]
        return scores

    def top(self, k: int, allowed: Mask | None = None) -> tuple[Rows, Scores]:
        """The k best rows that share a term with the query, best first, the lower row first among equals.

        Args:
            allowed: by row number; what it leaves out is never returned (its statistics still count).
        """
        scores = self.every
        floor = self._floor(k, allowed)
        matching = scores >= floor if floor > 0.0 else scores > 0.0
        found = np.flatnonzero(matching if allowed is None else matching & allowed)
        if len(found) > k > 0:
            edge = np.partition(scores[found], len(found) - k)[len(found) - k]
            found = found[scores[found] >= edge]
        best = found[np.lexsort((found, -scores[found]))][: max(k, 0)]
        return best, scores[best]

    def _floor(self, k: int, allowed: Mask | None) -> float:
        """What the k-th best has at least, as k rows with a rare term do: spares a look at all that match a little."""
        for rows in sorted(self._held, key=len):
            if len(rows) >= k > 0:
                some = rows if allowed is None else rows[allowed[rows]]
                if len(some) >= k:
                    return float(np.partition(self.every[some], len(some) - k)[len(some) - k])
        return 0.0


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
        self._kept: OrderedDict[str, _Term] = OrderedDict()
        self._room = _KEPT_POSTINGS
        self._lock = threading.Lock()

    def scored(self, query: str) -> Scored:
        """The scores of all rows."""
        total = np.zeros(len(self._live), dtype=np.float64)
        held = []
        for word, repeats in Counter(analyze(query)).items():
            term = self._term(word)
            np.add.at(total, term.rows, (repeats * term.rarity) * term.shares)
            held.append(term.rows)
        return Scored(total.astype(np.float32), held)

    def top(self, query: str, k: int, allowed: Mask | None = None) -> tuple[Rows, Scores]:
        """See `Scored.top`."""
        return self.scored(query).top(k, allowed)

    def _term(self, word: str) -> _Term:
        with self._lock:
            term = self._kept.get(word)
            if term is not None:
                self._kept.move_to_end(word)
                return term
        term = self._read(word)
        if len(term.rows) > _KEPT_POSTINGS // 4:
            return term
        with self._lock:
            if word not in self._kept:
                self._kept[word] = term
                self._room -= len(term.rows) + _EACH_TERM
            while self._room < 0:
                self._room += len(self._kept.popitem(last=False)[1].rows) + _EACH_TERM
        return term

    def _read(self, word: str) -> _Term:
        """A term from its postings in all segments."""
        held, counted = [], []
        for segment, whole in zip(self._segments, self._whole, strict=True):
            rows, counts = segment.postings(word)
            if not whole:
                kept = alive(rows, self._live)
                rows, counts = rows[kept], counts[kept]
            if len(rows):
                held.append(rows)
                counted.append(counts)
        if not held:
            return _UNKNOWN
        every_row, every_count = np.concatenate(held), np.concatenate(counted, dtype=np.float64)
        shares = every_count / (every_count + self._norms.take(every_row))
        return _Term(every_row, shares, math.log(1.0 + (self.size - len(shares) + 0.5) / (len(shares) + 0.5)))
