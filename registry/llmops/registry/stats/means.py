"""Averages that may be looked at as often as one likes (cost, log latency, scores), and CUPED to sharpen them.

Rests on the central limit theorem, so it waits for 100 units in each arm and takes the variance of both arms together;
for what happens or doesn't there is `events`, which needs neither. Knows moments, never single values.

Units must be independent: where assignment sticks to a user, a unit is a user's mean.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from llmops.core.errors import UserError
from llmops.registry.stats.binomial import sample_ratio_p
from llmops.registry.stats.conclusion import Bad, Conclusion, State, decide

BURN_IN = 100


class Moments(State):
    """Count, mean, and sum of squared deviations of some values; adding two gives those of all values together.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    n: int = Field(default=0, ge=0)
    mean: float = Field(default=0.0, allow_inf_nan=False)
    squares: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @classmethod
    def of(cls, values: ArrayLike) -> Moments:
        found = np.asarray(values, dtype=np.float64).ravel()
        if not found.size:
            return cls()
        mean = float(found.mean())
        return cls(n=found.size, mean=mean, squares=float(((found - mean) ** 2).sum()))

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        if not n:
            return self
        gap = other.mean - self.mean
        return Moments(
            n=n,
            mean=self.mean + gap * other.n / n,
            squares=self.squares + other.squares + gap**2 * self.n * other.n / n,
        )


def mixture_log_e(z: Any, information: Any, tau2: float) -> NDArray[np.float64]:
    """Log of the asymptotic e-value for a positive effect: a half-normal mixture of likelihood ratios.

    Args:
        z: effect over its standard error.
        information: 1 / the variance of the effect in units of one value's standard deviation, n0 n1 / (n0 + n1).
        tau2: variance of the mixture, in the same units.

    Source: Waudby-Smith et al., arXiv 2103.06476, equation 134 before its bound on the integral.
    """
    from scipy.special import log_ndtr

    spread = 1 + information * tau2
    gain = information * tau2 / spread
    return np.asarray(math.log(2) - np.log(spread) / 2 + z**2 * gain / 2 + log_ndtr(z * np.sqrt(gain)))


def mixture_variance(information: float, alpha: float) -> float:
    """The mixture's variance that makes the interval tightest at that information.

    Source: Waudby-Smith et al., arXiv 2103.06476, appendix on tuning rho, its closed approximation.
    """
    bound = -2 * math.log(alpha)
    return (bound + math.log(bound + 1)) / information


class MeanProcess(State):
    """Is the challenger's mean worse? May be asked after every batch.

    Args:
        propensity: the challenger's share of the units.
        margin: the harm that is still accepted, in the metric's units; below 0: the gain that is asked for.
        planned: units of both arms together at which it should be sharpest.
    """

    propensity: float = Field(gt=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    margin: float = 0.0
    bad: Bad = "high"
    planned: int = Field(default=10_000, gt=0)
    stages: tuple[tuple[Moments, Moments, float], ...] = ()
    peak: float = 0.0
    looks: int = 0

    def update(self, champion: Moments, challenger: Moments, propensity: float | None = None) -> MeanProcess:
        """The process after one more batch. Stages with different propensities are compared each in itself.

        Raises:
            UserError: a propensity that is none.
        """
        share = self.propensity if propensity is None else propensity
        if not 0 < share < 1:
            raise UserError(f"a propensity lies between 0 and 1, not {share}")
        held = {stage[2]: stage for stage in self.stages}
        old = held.get(share, (Moments(), Moments(), share))
        held[share] = (old[0] + champion, old[1] + challenger, share)
        grown = self.model_copy(update={"stages": tuple(held.values()), "looks": self.looks + 1})
        return grown.model_copy(update={"peak": max(self.peak, grown._log_e())})

    def conclude(self) -> Conclusion:
        """What is known now. `effect` is challenger's mean minus champion's, stages weighted by their precision."""
        effect, precision, _ = self._effect()
        half = self._half_width()
        low, high = effect - half, effect + half
        harm = self.peak >= -math.log(self.alpha)
        return Conclusion(
            verdict=decide(harm or self._short_of_margin(low, high), high if self.bad == "high" else -low, self.margin),
            method="asymptotic-confidence-sequence",
            params={
                "effect": "difference of means",
                "propensity": self.propensity,
                "margin": self.margin,
                "bad": self.bad,
                "planned": self.planned,
                "burn_in": BURN_IN,
            },
            alpha=self.alpha,
            effect=effect if precision else None,
            ci_low=low,
            ci_high=high,
            e_value=math.exp(min(self._log_e(), 700.0)),
            p_value=math.exp(-self.peak),
            n_champion=sum(stage[0].n for stage in self.stages),
            n_challenger=sum(stage[1].n for stage in self.stages),
            looks=self.looks,
            srm_p=sample_ratio_p((stage[0].n, stage[1].n, stage[2]) for stage in self.stages),
        )

    def _effect(self) -> tuple[float, float, float]:
        """Effect, its precision (1 / variance), and the information; zeros before the burn-in."""
        weighted = precision = information = 0.0
        for champion, challenger, _ in self.stages:
            if min(champion.n, challenger.n) < BURN_IN:
                continue
            both = champion + challenger
            share = champion.n * challenger.n / both.n
            weight = share * both.n / both.squares if both.squares else 0.0
            weighted += weight * (challenger.mean - champion.mean)
            precision += weight
            information += share if weight else 0.0
        return (weighted / precision if precision else 0.0), precision, information

    def _tau2(self, alpha: float) -> float:
        return mixture_variance(self.planned * self.propensity * (1 - self.propensity), alpha)

    def _log_e(self) -> float:
        effect, precision, information = self._effect()
        z = effect * math.sqrt(precision) * (1 if self.bad == "high" else -1)
        return float(mixture_log_e(z, information, self._tau2(2 * self.alpha))) if precision else 0.0

    def _half_width(self) -> float:
        """Source: Waudby-Smith et al., arXiv 2103.06476, equation 9, in information instead of time."""
        _, precision, information = self._effect()
        if not precision:
            return math.inf
        spread = information * self._tau2(self.alpha)
        return math.sqrt((1 + spread) / spread * (math.log1p(spread) - 2 * math.log(self.alpha)) / precision)

    def _short_of_margin(self, low: float, high: float) -> bool:
        return self.margin < 0 and (low if self.bad == "high" else -high) > self.margin


class Cuped(State):
    """What a unit's own past foretells, taken off its value: same mean difference, less noise.

    Fit it on data from before the experiment, or on both arms together, never on one.

    Source: Deng, Xu, Kohavi and Walker, "Improving the sensitivity of online controlled experiments", WSDM 2013.
    """

    theta: float
    centre: float
    variance_kept: float

    @classmethod
    def fit(cls, values: ArrayLike, past: ArrayLike) -> Cuped:
        """Raises UserError where there are not at least two units with a value and a past each."""
        y, x = np.asarray(values, dtype=np.float64), np.asarray(past, dtype=np.float64)
        if y.shape != x.shape or y.ndim != 1 or len(y) < 2:
            raise UserError("CUPED needs one past for each value, and two units at least")
        covariance = np.cov(y, x)
        theta = float(covariance[0, 1] / covariance[1, 1]) if covariance[1, 1] else 0.0
        spread = float(covariance[0, 0])
        kept = 1 - theta * float(covariance[0, 1]) / spread if spread else 1.0
        return cls(theta=theta, centre=float(x.mean()), variance_kept=max(kept, 0.0))

    def adjust(self, values: ArrayLike, past: ArrayLike) -> NDArray[np.float64]:
        return np.asarray(values, dtype=np.float64) - self.theta * (np.asarray(past, dtype=np.float64) - self.centre)
