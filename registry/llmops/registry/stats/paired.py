"""Champion and challenger on the same held-out examples: one look, every example its own control.

Knows scores, example by example. For traffic, where each request meets one arm only and looks are many, there are
`events`, `means` and `quantiles`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from llmops.core.errors import UserError
from llmops.registry.stats.binomial import wilson
from llmops.registry.stats.conclusion import Bad, Conclusion, State, Verdict, combine, decide_interval

Floats = NDArray[np.float64]
Metric = Callable[[NDArray[Any]], float]

_BLOCK = 2**22
"""Numbers drawn at once: 32 MB."""


class Rule(State):
    """How a paired comparison decides.

    Args:
        margin: the harm that is still accepted, in the metric's units; below 0: the gain that is asked for.
        bad: which end of the metric hurts.
        least: examples below which nothing is decided.
    """

    alpha: float = Field(default=0.05, gt=0, lt=1)
    margin: float = 0.0
    bad: Bad = "low"
    least: int = Field(default=30, ge=2)
    resamples: int = Field(default=10_000, ge=100)
    seed: int = 0


DEFAULT = Rule()


def paired_bootstrap(
    champion: ArrayLike, challenger: ArrayLike, rule: Rule = DEFAULT, *, metric: Metric | None = None
) -> Conclusion:
    """The difference of a metric, with its BCa interval over resampled examples.

    Examples that all differ equally leave nothing to resample: the interval is then a point, and `rule.least` alone
    says how many of them are enough. For right and wrong `mcnemar` is the better judge.

    Args:
        champion, challenger: one row an example, in the same order; scores, or whatever `metric` takes.
        metric: of an arm's rows, such as F1 of (label, prediction); None: the mean score.

    Raises:
        UserError: the arms differ in length, or a score is no number.

    Source: Efron, "Better bootstrap confidence intervals", JASA 82 (1987).
    """
    old, new = _aligned(champion, challenger)
    if metric is None:
        differences = (new - old).astype(np.float64)
        effect, drawn = float(differences.mean()), _resampled_means(differences, rule)
        left_out = (differences.sum() - differences) / max(len(differences) - 1, 1)
    else:

        def difference(rows: Any) -> float:
            return float(metric(new[rows])) - float(metric(old[rows]))

        rng, everything = np.random.default_rng(rule.seed), np.arange(len(old))
        effect = difference(everything)
        drawn = np.array([difference(rng.integers(len(old), size=len(old))) for _ in range(rule.resamples)])
        groups = np.array_split(everything, min(len(old), 200))
        left_out = np.array([difference(np.delete(everything, group)) for group in groups])
    low, high = _bca(effect, drawn, left_out, rule.alpha)
    return _concluded("paired-bootstrap-bca", rule, len(old), (effect, low, high))


def paired_permutation(champion: ArrayLike, challenger: ArrayLike, rule: Rule = DEFAULT) -> Conclusion:
    """Two-sided p-value of the mean difference when arms are swapped example by example at random, the bootstrap's
    interval beside it; a difference counts as shown where both say so.

    Source: Fisher's randomisation test; (hits + 1) / (draws + 1) by Phipson and Smyth, arXiv 1603.05766.
    """
    found = paired_bootstrap(champion, challenger, rule)
    old, new = _aligned(champion, challenger)
    differences = (new - old).astype(np.float64)
    rng, hits, observed = np.random.default_rng(rule.seed), 0, abs(differences.sum()) * (1 - 1e-12)
    for size in _blocks(rule.resamples, len(differences)):
        signs = rng.integers(0, 2, size=(size, len(differences)), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ differences) >= observed).sum())
    return _agreed(found.model_copy(update={"method": "paired-permutation"}), (hits + 1) / (rule.resamples + 1), rule)


def mcnemar(champion: ArrayLike, challenger: ArrayLike, rule: Rule = DEFAULT) -> Conclusion:
    """The difference of accuracies from right and wrong alone: exact p-value, score interval; a difference counts as
    shown where both say so.

    Args:
        champion, challenger: whether each example was answered rightly.

    Source: McNemar, Psychometrika 12 (1947), by the binomial distribution; Newcombe, Stat. Med. 17 (1998) 2635,
    method 10.
    """
    old, new = (rows.astype(bool) for rows in _aligned(champion, challenger))
    n, gained, lost = len(old), int((new & ~old).sum()), int((old & ~new).sum())
    from scipy.special import bdtr

    p = min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5))) if gained + lost else 1.0
    interval = _newcombe(int((old & new).sum()), gained, lost, n, rule.alpha)
    found = _concluded("mcnemar-exact", rule, n, ((gained - lost) / n, *interval))
    return _agreed(found, p, rule)


def by_slice(
    compare: Callable[[NDArray[Any], NDArray[Any], Rule], Conclusion],
    champion: ArrayLike,
    challenger: ArrayLike,
    slices: Mapping[str, ArrayLike],
    rule: Rule = DEFAULT,
) -> tuple[Verdict, dict[str, Conclusion]]:
    """One conclusion a slice, and the verdict over all: a slice that is hurt fails the whole.

    Args:
        slices: name to a mask, or to indices, of its examples. They may overlap; the whole is one only if named.

    Each slice gets alpha / slices (Bonferroni), so that all intervals hold together.

    Raises:
        UserError: a slice is empty.
    """
    old, new = _aligned(champion, challenger)
    shared = rule.model_copy(update={"alpha": rule.alpha / max(len(slices), 1)})
    found = {name: compare(old[np.asarray(rows)], new[np.asarray(rows)], shared) for name, rows in slices.items()}
    return combine(conclusion.verdict for conclusion in found.values()), found


def _aligned(champion: ArrayLike, challenger: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    old, new = np.asarray(champion), np.asarray(challenger)
    if old.shape != new.shape or not old.ndim or not len(old):
        raise UserError(f"paired arms need the same examples, at least one: {old.shape} and {new.shape}")
    for rows in (old, new):
        if rows.dtype.kind == "f" and not np.isfinite(rows).all():
            raise UserError("a score is not a finite number")
    return (old * 1, new * 1) if old.dtype.kind == "b" else (old, new)


def _concluded(method: str, rule: Rule, n: int, found: tuple[float, float, float]) -> Conclusion:
    effect, low, high = found
    enough = n >= rule.least
    return Conclusion(
        verdict=decide_interval(low, high, rule.margin, rule.bad) if enough else "inconclusive",
        method=method,
        params=rule.model_dump(exclude={"alpha", "seed"}),
        seed=rule.seed,
        alpha=rule.alpha,
        effect=effect,
        ci_low=low,
        ci_high=high,
        n_champion=n,
        n_challenger=n,
    )


def _agreed(found: Conclusion, p: float, rule: Rule) -> Conclusion:
    """The conclusion with its p-value; a difference that only the interval shows decides nothing."""
    claims = found.verdict == "fail" or (found.verdict == "pass" and rule.margin <= 0 and found.effect)
    verdict: Verdict = "inconclusive" if claims and p > rule.alpha else found.verdict
    return found.model_copy(update={"p_value": p, "verdict": verdict})


def _blocks(total: int, width: int) -> Sequence[int]:
    step = max(1, _BLOCK // width)
    return [min(step, total - start) for start in range(0, total, step)]


def _resampled_means(values: Floats, rule: Rule) -> Floats:
    rng, n = np.random.default_rng(rule.seed), len(values)
    drawn = [values[rng.integers(n, size=(size, n))].mean(axis=1) for size in _blocks(rule.resamples, n)]
    return np.concatenate(drawn)


def _bca(effect: float, drawn: Floats, left_out: Floats, alpha: float) -> tuple[float, float]:
    """Quantiles of the resamples, corrected for bias and for a spread that changes with the effect."""
    from scipy.special import ndtr, ndtri

    finite = drawn[np.isfinite(drawn)]
    if not np.isfinite(effect) or not np.isfinite(left_out).all() or len(finite) < 0.99 * len(drawn):
        return -np.inf, np.inf  # a metric that many samples of such examples do not have
    if finite.min() == finite.max():
        return effect, effect
    half = 0.5 / len(finite)
    below = float((finite < effect).mean() + (finite == effect).mean() / 2)
    bias = float(ndtri(np.clip(below, half, 1 - half)))
    pull = left_out.mean() - left_out
    spread = float((pull**2).sum()) ** 1.5
    acceleration = float((pull**3).sum()) / (6 * spread) if spread else 0.0
    ends = bias + ndtri(np.array([alpha / 2, 1 - alpha / 2]))
    low, high = np.quantile(finite, ndtr(bias + ends / (1 - acceleration * ends)))
    return float(low), float(high)


def _newcombe(both: int, gained: int, lost: int, n: int, alpha: float) -> tuple[float, float]:
    new, old, neither = both + gained, both + lost, n - both - gained - lost
    (new_low, new_high), (old_low, old_high) = wilson(new, n, alpha), wilson(old, n, alpha)
    scale = np.sqrt(float(new) * (n - new) * old * (n - old))
    cross = both * neither - gained * lost
    phi = (max(cross - n / 2, 0.0) if cross > 0 else float(cross)) / scale if scale else 0.0
    a, b = new / n - new_low, old_high - old / n
    c, d = new_high - new / n, old / n - old_low
    effect = (gained - lost) / n
    down = np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))
    up = np.sqrt(max(c * c - 2 * phi * c * d + d * d, 0.0))
    return float(effect - down), float(effect + up)
