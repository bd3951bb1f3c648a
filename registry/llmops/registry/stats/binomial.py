"""Counts of yes and no: exact intervals, and bets on a probability that may be looked at as often as one likes.

Knows Bernoulli trials with a known probability under the null. Which trials those are is its callers' matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import UserError

SRM_CONCENTRATION = 1000.0


def clopper_pearson(successes: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """The exact two-sided interval of a probability; each end alone is an exact bound at 1 - alpha / 2.

    Source: Clopper and Pearson, Biometrika 26 (1934), by quantiles of the beta distribution.
    """
    _require_counts(successes, n)
    from scipy.special import betaincinv

    low = float(betaincinv(successes, n - successes + 1, alpha / 2)) if successes else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - alpha / 2)) if successes < n else 1.0
    return low, high


def wilson(successes: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """The score interval of a probability: near its level also for small counts. [0, 1] without trials.

    Source: Wilson, JASA 22 (1927).
    """
    _require_counts(successes, n)
    if n == 0:
        return 0.0, 1.0
    from scipy.special import ndtri

    z2, p = float(ndtri(1 - alpha / 2)) ** 2, successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = float(np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n)))) / (1 + z2 / n)
    return (centre - half if successes else 0.0), (centre + half if successes < n else 1.0)


def log_e(
    successes: NDArray[Any] | int, n: int, p: float, side: Literal["below", "above", "both"], concentration: float
) -> NDArray[np.float64]:
    """Log e-value that the probability of success lies below, above, or on either side of `p`.

    The likelihood ratio against `p`, mixed over a Beta(concentration * p, concentration * (1 - p)) cut to that side: a
    martingale at `p` and a supermartingale on the null's other values, so Ville's inequality holds at every look.

    Source: Robbins, Ann. Math. Stat. 41 (1970); Howard and Ramdas, arXiv 1906.09712.
    """
    from scipy.special import betainc, betaln

    hits = np.asarray(successes, dtype=np.float64)
    a, b = concentration * p, concentration * (1 - p)
    mixed = betaln(hits + a, n - hits + b) - betaln(a, b) - hits * np.log(p) - (n - hits) * np.log1p(-p)
    if side == "both":
        return np.asarray(mixed)
    # The posterior's share of that side over the prior's. The upper tail as a lower one keeps its digits.
    if side == "below":
        return np.asarray(mixed + _log_betainc(hits + a, n - hits + b, p) - np.log(betainc(a, b, p)))
    return np.asarray(mixed + _log_betainc(n - hits + b, hits + a, 1 - p) - np.log(betainc(b, a, 1 - p)))


def _log_betainc(a: Any, b: Any, x: float) -> Any:
    """Log of the regularised incomplete beta function; where that underflows, the first term of its series, a bound
    from below that costs evidence and never invents any.

    Source: DLMF 8.17.8.
    """
    from scipy.special import betainc, betaln

    share = betainc(a, b, x)
    first = a * np.log(x) + b * np.log1p(-x) - np.log(a) - betaln(a, b)
    return np.where(share > 1e-290, np.log(np.maximum(share, 1e-290)), first)


def sample_ratio_p(arms: Iterable[tuple[int, int, float]]) -> float:
    """Anytime-valid p-value that units were assigned as planned; a small one voids every other conclusion.

    Args:
        arms: (champion's units, challenger's units, challenger's propensity) for each stage of a rollout.

    Source: Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022.
    """
    total = 0.0
    for champion, challenger, propensity in arms:
        total += float(log_e(challenger, champion + challenger, propensity, "both", SRM_CONCENTRATION))
    return float(min(1.0, np.exp(-total)))


def _require_counts(successes: int, n: int) -> None:
    if not 0 <= successes <= n:
        raise UserError(f"{successes} of {n} is no count of successes")
