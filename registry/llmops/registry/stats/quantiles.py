"""Quantiles that may be looked at as often as one likes: is the challenger's p95 latency a given factor higher?

Exact for any distribution: that a value is at most the quantile is an event of known probability. Knows histograms with
buckets of 1%, never single values, and rounds so that what it says stays true of the values themselves.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from llmops.core.errors import UserError
from llmops.registry.stats.binomial import log_e, sample_ratio_p
from llmops.registry.stats.conclusion import Conclusion, State, decide

GROWTH = 1.01
SMALLEST = 1e-3
BUCKETS = math.ceil(math.log(1e9 / SMALLEST) / math.log(GROWTH))
CONCENTRATION = 100.0

Floats = NDArray[np.float64]


class Histogram(State):
    """Values counted by bucket: bucket b holds those in (SMALLEST * 1.01^(b-1), SMALLEST * 1.01^b], the first and last
    all beyond. Adding two gives the histogram of all values together. From a microsecond to 11 days, in milliseconds;
    what is said of a ratio holds for quantiles within.
    """

    counts: dict[int, int] = Field(default_factory=dict)

    @classmethod
    def of(cls, values: ArrayLike) -> Histogram:
        """Raises UserError for what is no number."""
        found = np.asarray(values, dtype=np.float64).ravel()
        if np.isnan(found).any():
            raise UserError("a histogram takes numbers; one value is none")
        places = np.ceil(np.log(np.maximum(found, SMALLEST) / SMALLEST) / math.log(GROWTH) - 1e-9)
        buckets, counts = np.unique(np.minimum(places, BUCKETS).astype(np.int64), return_counts=True)
        return cls(counts=dict(zip(buckets.tolist(), counts.tolist(), strict=True)))

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    def __add__(self, other: Histogram) -> Histogram:
        buckets = sorted(self.counts.keys() | other.counts.keys())
        return Histogram(counts={b: self.counts.get(b, 0) + other.counts.get(b, 0) for b in buckets})

    def cumulative(self) -> NDArray[np.int64]:
        """How many values lie in each bucket or below."""
        dense = np.zeros(BUCKETS + 1, dtype=np.int64)
        dense[list(self.counts)] = list(self.counts.values())
        return np.cumsum(dense)

    def quantile(self, p: float) -> float | None:
        """The upper edge of the bucket that holds it."""
        n = self.n
        return None if not n else SMALLEST * GROWTH ** int(np.searchsorted(self.cumulative(), math.ceil(p * n)))


class QuantileProcess(State):
    """Is a quantile of the challenger's values higher? May be asked after every batch.

    Args:
        propensity: the challenger's share of the units, for the check of the ratio.
        margin: the ratio of quantiles that is still accepted.
    """

    propensity: float = Field(gt=0, lt=1)
    p: float = Field(default=0.95, gt=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    margin: float = Field(default=1.1, gt=0)
    champion: Histogram = Histogram()
    challenger: Histogram = Histogram()
    stages: dict[float, tuple[int, int]] = Field(default_factory=dict)
    peak: float = 0.0
    looks: int = 0

    def update(self, champion: Histogram, challenger: Histogram, propensity: float | None = None) -> QuantileProcess:
        """The process after one more batch."""
        share = self.propensity if propensity is None else propensity
        old = self.stages.get(share, (0, 0))
        grown = self.model_copy(
            update={
                "champion": self.champion + champion,
                "challenger": self.challenger + challenger,
                "stages": self.stages | {share: (old[0] + champion.n, old[1] + challenger.n)},
                "looks": self.looks + 1,
            }
        )
        return grown.model_copy(update={"peak": max(self.peak, grown._evidence().higher(0))})

    def conclude(self) -> Conclusion:
        """What is known now. `effect` is challenger's quantile over champion's."""
        evidence = self._evidence()
        needed = math.log(2 / self.alpha)
        lowest, highest = evidence.excluded(needed)
        high = math.inf if highest > BUCKETS else GROWTH**highest
        tops = self.champion.quantile(self.p), self.challenger.quantile(self.p)
        harm = self.peak >= -math.log(self.alpha)
        return Conclusion(
            verdict=decide(harm, math.log(high), math.log(self.margin)),
            method="quantile-confidence-sequence",
            params={"effect": "ratio of quantiles", "p": self.p, "margin": self.margin, "growth": GROWTH},
            alpha=self.alpha,
            effect=tops[1] / tops[0] if tops[0] and tops[1] else None,
            ci_low=0.0 if lowest < -BUCKETS else GROWTH**lowest,
            ci_high=high,
            e_value=math.exp(min(evidence.higher(0), 700.0)),
            p_value=math.exp(-self.peak),
            n_champion=self.champion.n,
            n_challenger=self.challenger.n,
            looks=self.looks,
            srm_p=sample_ratio_p((arms[0], arms[1], share) for share, arms in self.stages.items()),
        )

    def _evidence(self) -> _Evidence:
        return _Evidence(self.champion, self.challenger, self.p)


class _Evidence:
    """What both histograms say against a ratio of quantiles of at most, or at least, 1.01^shift.

    Wherever the champion's quantile lies, its bucket makes two bets on the champion's counts, the shifted bucket one on
    the challenger's; arms are independent, so e-values multiply, and the least over all places is an e-value.

    Source: Howard and Ramdas, arXiv 1906.09712, on A/B tests, with buckets rounded against the bettor.
    """

    def __init__(self, champion: Histogram, challenger: Histogram, p: float) -> None:
        counts, self._n = np.concatenate([[0], champion.cumulative()]), champion.n
        bets = np.stack([_bets(counts[1:], self._n, p, "below"), _bets(counts[:-1], self._n, p, "above")])
        self._place = np.logaddexp.reduce(bets, axis=0) - math.log(2)
        theirs = challenger.cumulative()
        self._below = np.pad(_bets(theirs, challenger.n, p, "below"), BUCKETS + 2, mode="edge")
        self._above = np.pad(_bets(theirs, challenger.n, p, "above"), BUCKETS + 2, mode="edge")
        empty = np.array([0])
        self._below[: BUCKETS + 2] = _bets(empty, challenger.n, p, "below")
        self._above[: BUCKETS + 2] = _bets(empty, challenger.n, p, "above")

    def higher(self, shift: int) -> float:
        """Log e-value that the ratio of quantiles is above 1.01^shift."""
        return self._least(self._below, shift)

    def lower(self, shift: int) -> float:
        """Log e-value that the ratio of quantiles is below 1.01^shift."""
        return self._least(self._above, shift - 1)

    def excluded(self, needed: float) -> tuple[int, int]:
        """The largest shift the ratio is shown to be above, and the smallest it is below; out of range for none."""
        low, outside = -BUCKETS - 1, BUCKETS + 1
        if self.higher(-BUCKETS) >= needed:
            low = _last(lambda shift: self.higher(shift) >= needed, -BUCKETS, BUCKETS)
        if self.lower(BUCKETS) < needed:
            return low, outside
        return low, -_last(lambda shift: self.lower(-shift) >= needed, -BUCKETS, BUCKETS)

    def _least(self, padded: Floats, shift: int) -> float:
        start = BUCKETS + 2 + shift
        return float((self._place + padded[start : start + BUCKETS + 1]).min())


def _last(holds: Any, first: int, end: int) -> int:
    """The last whole number up to `end` for which it holds, where it holds at `first` and never again once it ended."""
    while first < end:
        middle = (first + end + 1) // 2
        first, end = (middle, end) if holds(middle) else (first, middle - 1)
    return first


def _bets(counts: NDArray[np.int64], n: int, p: float, side: Any) -> Floats:
    """`log_e` of each count, reckoned once for equal neighbours."""
    distinct, places = np.unique(counts, return_inverse=True)
    return np.asarray(_distinct_bets(distinct.tobytes(), n, p, side)[places])


@lru_cache(maxsize=32)
def _distinct_bets(counts: bytes, n: int, p: float, side: Any) -> Floats:
    return log_e(np.frombuffer(counts, dtype=np.int64), n, p, side, CONCENTRATION)
