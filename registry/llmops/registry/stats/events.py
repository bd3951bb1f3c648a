"""Bad outcomes that either happen or don't (errors, unsafe answers, thumbs down): an exact test under peeking.

Under "the challenger is no worse" the arm of a request with a bad outcome is the challenger's with its propensity at
most, that of a good one at least. Betting on both, request by request, multiplies a wealth that is expected never to
grow: an e-process. No normal approximation is made, so that a rate of 1% and a canary of 1% are as exact as any; the
rate may drift, and the propensity may change from batch to batch. Knows counts; not what was counted.

Units must be assigned independently. Where assignment sticks to a user, count users (or their first request), or one
user's bad day counts as many.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from llmops.core.errors import UserError
from llmops.registry.stats.binomial import sample_ratio_p
from llmops.registry.stats.conclusion import Conclusion, State, decide

# The log odds ratios that are bet on, each with a purse of its own.
EFFECTS = np.geomspace(0.02, 6.0, 24)
# Before anything is seen a bad outcome counts as rare: bets on the good ones are then small, whatever the rate is.
SEEN_BAD, SEEN = 0.5, 40.0
RATIOS = np.linspace(-8.0, 8.0, 801)

Floats = NDArray[np.float64]


@lru_cache(maxsize=64)
def purses(propensity: float) -> Floats:
    """Log of the wealth that each effect starts with; it sums to 1.

    What a share of the traffic can show within some thousand requests is an effect of about .165 / sqrt(p (1 - p)); the
    purses fall off around it like a Student's t in the logarithm, so that no effect is far from a full one.
    """
    distance = np.log(EFFECTS * math.sqrt(propensity * (1 - propensity)) / 0.165) / 0.65
    weights = (1 + distance**2 / 5) ** -3
    return np.asarray(np.log(weights / weights.sum()))


def advance(purse: Floats, seen: tuple[Any, Any], arms: tuple[Any, Any, Any, Any], propensity: float) -> Floats:
    """The log wealth of each effect after a batch, for one process or for many at once.

    A request multiplies it by rate(arm) / rate, or by (1 - rate(arm)) / (1 - rate) where the outcome was good. The
    rate is estimated from what was `seen` before the batch, (bad, n) of both arms; the arms' rates have the effect's
    odds ratio and, weighted by propensity, that mean: so the expected factor is 1 where the arms are equal.

    Args:
        purse: shape (..., effects).
        arms: (champion bad, champion n, challenger bad, challenger n), each of shape (...).

    Source: Turner, Ly and Gruenwald, arXiv 2106.02693: their ratio to the weighted mean, here with an estimated mean.
    """
    rate = np.asarray((seen[0] + SEEN_BAD) / (seen[1] + SEEN), dtype=np.float64)[..., None]
    odds = np.exp(EFFECTS)
    linear = propensity * odds + (1 - propensity) - rate * (odds - 1)
    champion = 2 * rate / (linear + np.sqrt(linear**2 + 4 * (1 - propensity) * (odds - 1) * rate))
    scale = 1 + (odds - 1) * champion
    challenger = odds * champion / scale
    champion_bad, champion_n, challenger_bad, challenger_n = (np.asarray(count)[..., None] for count in arms)
    return np.asarray(
        purse
        + champion_bad * np.log(champion / rate)
        + challenger_bad * np.log(challenger / rate)
        + (champion_n - champion_bad) * np.log((1 - champion) / (1 - rate))
        + (challenger_n - challenger_bad) * np.log((1 - champion) / scale / (1 - rate))
    )


def log_wealth(purse: Floats) -> Floats:
    """The log e-value: all purses together."""
    return np.asarray(np.logaddexp.reduce(purse, axis=-1))


class Tally(State):
    """One arm's units in a batch: how many, and how many of them ended badly."""

    n: int = Field(ge=0)
    bad: int = Field(ge=0)

    @model_validator(mode="after")
    def _bad_are_some(self) -> Self:
        if self.bad > self.n:
            raise ValueError(f"{self.bad} bad outcomes of {self.n}")
        return self

    def __add__(self, other: Tally) -> Tally:
        return Tally(n=self.n + other.n, bad=self.bad + other.bad)


class Stage(State):
    """What was counted while the challenger had one propensity."""

    propensity: float
    champion: Tally
    challenger: Tally


class EventProcess(State):
    """Is the challenger's rate of bad outcomes higher? May be asked after every batch.

    Args:
        propensity: the challenger's share of the units; where it grows in stages, that of the stage that is to decide.
            Purses are spread for it: for .30 to .33 at one half, those for 1% take 13,000 requests instead of 6,700.
        margin: the ratio of rates that is still accepted: 1.25 is a quarter more, 1 none, 0.9 asks for a tenth less.
    """

    propensity: float = Field(gt=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    margin: float = Field(default=1.25, gt=0)
    purse: tuple[float, ...] = ()
    peak: float = 0.0
    stages: tuple[Stage, ...] = ()
    looks: int = 0

    def update(self, champion: Tally, challenger: Tally, propensity: float | None = None) -> EventProcess:
        """The process after one more batch, in time order; the order within the batch does not matter.

        Raises:
            UserError: a propensity that is none.
        """
        share = self.propensity if propensity is None else propensity
        if not 0 < share < 1:
            raise UserError(f"a propensity lies between 0 and 1, not {share}")
        both = self._arm("champion") + self._arm("challenger")
        before = np.asarray(self.purse) if self.purse else purses(self.propensity)
        arms = (champion.bad, champion.n, challenger.bad, challenger.n)
        purse = advance(before, (both.bad, both.n), arms, share)
        return self.model_copy(
            update={
                "purse": tuple(purse.tolist()),
                "peak": max(self.peak, float(log_wealth(purse))),
                "stages": self._staged(Stage(propensity=share, champion=champion, challenger=challenger)),
                "looks": self.looks + 1,
            }
        )

    def conclude(self) -> Conclusion:
        """What is known now. `effect` is the ratio of the rates (Mantel-Haenszel over stages).

        The e-value uses every outcome, the interval only the bad ones, whose arms depend on the ratio alone: it is
        exact under peeking too, but wider, and may still hold 1 when harm is already shown.
        """
        low, high = self._ratios()
        champion, challenger = self._arm("champion"), self._arm("challenger")
        log_e = float(log_wealth(np.asarray(self.purse))) if self.purse else 0.0
        harm = self.peak >= -math.log(self.alpha)
        return Conclusion(
            verdict=decide(harm, math.log(high) if high else -math.inf, math.log(self.margin)),
            method="event-e-process",
            params={"effect": "rate ratio", "propensity": self.propensity, "margin": self.margin},
            alpha=self.alpha,
            effect=self._ratio(),
            ci_low=low,
            ci_high=high,
            e_value=math.exp(min(log_e, 700.0)),
            p_value=math.exp(-self.peak),
            n_champion=champion.n,
            n_challenger=challenger.n,
            looks=self.looks,
            srm_p=sample_ratio_p((stage.champion.n, stage.challenger.n, stage.propensity) for stage in self.stages),
        )

    def _arm(self, name: str) -> Tally:
        return sum((getattr(stage, name) for stage in self.stages), Tally(n=0, bad=0))

    def _staged(self, new: Stage) -> tuple[Stage, ...]:
        if not any(stage.propensity == new.propensity for stage in self.stages):
            return (*self.stages, new)
        return tuple(
            Stage(
                propensity=stage.propensity,
                champion=stage.champion + new.champion,
                challenger=stage.challenger + new.challenger,
            )
            if stage.propensity == new.propensity
            else stage
            for stage in self.stages
        )

    def _ratio(self) -> float | None:
        above = below = 0.0
        for stage in self.stages:
            n = stage.champion.n + stage.challenger.n
            above += stage.challenger.bad * stage.champion.n / max(n, 1)
            below += stage.champion.bad * stage.challenger.n / max(n, 1)
        return above / below if below else None

    def _ratios(self) -> tuple[float, float]:
        """The ratios that the arms of the bad outcomes do not rule out, each end at the next point of the grid.

        A ratio is ruled out where the mixture of all likelihoods is 1 / alpha times its own. Source: Robbins' method of
        mixtures, as in Howard et al., arXiv 1810.08240.
        """
        likelihood = np.zeros_like(RATIOS)
        for stage in self.stages:
            p, hits, misses = stage.propensity, stage.challenger.bad, stage.champion.bad
            likelihood += hits * RATIOS - (hits + misses) * np.log(1 - p + p * np.exp(RATIOS))
        prior = 1 / (1 + RATIOS**2)
        mixed = np.logaddexp.reduce(likelihood + np.log(prior / prior.sum()))
        kept = np.flatnonzero(likelihood > mixed + math.log(self.alpha))
        first, last = int(kept[0]), int(kept[-1])
        low = math.exp(RATIOS[first - 1]) if first else 0.0
        high = math.exp(RATIOS[last + 1]) if last + 1 < len(RATIOS) else math.inf
        return low, high
