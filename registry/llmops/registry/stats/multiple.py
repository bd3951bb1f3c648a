"""Several metrics at once: what may be believed when each of them could have alarmed by chance.

Knows p-values and e-values. Guardrails want `bonferroni` (no false alarm at all, mostly) or, under any dependence and
at any look, `e_bh`; many columns of a drift table want `benjamini_hochberg`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmops.core.errors import UserError


def bonferroni(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p-values: compare each with alpha, and the chance of any false one is at most alpha."""
    p = _unit(p_values)
    return np.minimum(p * len(p), 1.0)


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p-values: compare each with alpha, and the expected share of false ones among the found is at most
    alpha, for independent or positively dependent metrics.

    Source: Benjamini and Hochberg, JRSS B 57 (1995).
    """
    p = _unit(p_values)
    order = np.argsort(p)[::-1]
    scaled = p[order] * len(p) / np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(np.minimum(scaled, 1.0))
    return adjusted


def e_bh(e_values: ArrayLike, alpha: float = 0.05) -> NDArray[np.bool_]:
    """Which metrics are found, with an expected share of false ones of at most alpha, however they depend on each other
    and whenever one stopped.

    Source: Wang and Ramdas, "False discovery rate control with e-values", JRSS B 84 (2022).
    """
    e = np.atleast_1d(np.asarray(e_values, dtype=np.float64))
    if np.isnan(e).any() or (e < 0).any():
        raise UserError("an e-value is a number of 0 or more")
    ranked = np.sort(e)[::-1]
    large = np.flatnonzero(ranked * np.arange(1, len(e) + 1) >= len(e) / alpha)
    return np.asarray(e >= ranked[large[-1]]) if large.size else np.zeros(len(e), dtype=np.bool_)


def _unit(p_values: ArrayLike) -> NDArray[np.float64]:
    p = np.atleast_1d(np.asarray(p_values, dtype=np.float64))
    if np.isnan(p).any() or (p < 0).any() or (p > 1).any():
        raise UserError("a p-value lies between 0 and 1")
    return p
