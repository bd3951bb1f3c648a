"""How many requests will it take? Answered by running the test itself on drawn traffic, before any is spent.

Knows the tests and a random generator. For held-out data a formula does.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from llmops.registry.stats.conclusion import State
from llmops.registry.stats.events import advance, log_wealth, purses
from llmops.registry.stats.means import BURN_IN, mixture_log_e, mixture_variance

Floats = NDArray[np.float64]


class Traffic(State):
    """What is drawn: so many requests at most, looked at after every batch, in so many runs."""

    propensity: float = Field(gt=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    requests: int = Field(default=20_000, gt=0)
    batch: int = Field(default=100, gt=0)
    runs: int = Field(default=400, gt=0)
    seed: int = 0


class Plan(State):
    """How soon harm of that size shows, in requests of both arms together; None where it takes more than there are."""

    median: int | None
    most: int | None
    """Nine runs in ten are done by then."""
    power: float
    """Share of runs that alarm within the traffic."""

    @classmethod
    def of(cls, alarms: Floats) -> Plan:
        median, most = (None if math.isinf(q) else int(q) for q in np.quantile(alarms, [0.5, 0.9], method="higher"))
        return cls(median=median, most=most, power=float(np.isfinite(alarms).mean()))


def event_alarms(champion: float, challenger: float, traffic: Traffic) -> Floats:
    """The request at which `EventProcess` alarms, a run each, infinite where it doesn't; rates of bad outcomes.

    With equal rates the finite ones are false alarms.
    """
    rng, share = np.random.default_rng(traffic.seed), traffic.propensity
    alarms = np.full(traffic.runs, math.inf)
    open_ = np.arange(traffic.runs)
    purse = np.broadcast_to(purses(share), (traffic.runs, len(purses(share))))
    bad = np.zeros(traffic.runs, dtype=np.int64)
    for seen in range(0, traffic.requests, traffic.batch):
        n = rng.binomial(traffic.batch, share, size=len(open_))
        theirs, ours = rng.binomial(n, challenger), rng.binomial(traffic.batch - n, champion)
        purse = advance(purse, (bad, seen), (ours, traffic.batch - n, theirs, n), share)
        rich = log_wealth(purse) >= -math.log(traffic.alpha)
        alarms[open_[rich]] = seen + traffic.batch
        open_, purse, bad = open_[~rich], purse[~rich], (bad + ours + theirs)[~rich]
    return alarms


def mean_alarms(effect: float, traffic: Traffic, planned: int = 10_000) -> Floats:
    """The request at which `MeanProcess` alarms; the effect is in standard deviations of one value."""
    rng, share = np.random.default_rng(traffic.seed), traffic.propensity
    looks = np.arange(traffic.batch, traffic.requests + 1, traffic.batch)
    drawn = rng.binomial(traffic.batch, share, size=(traffic.runs, len(looks)))
    challenger, champion = np.cumsum(drawn, axis=1), np.cumsum(traffic.batch - drawn, axis=1)
    noise = [np.cumsum(rng.normal(size=drawn.shape) * np.sqrt(n), axis=1) for n in (drawn, traffic.batch - drawn)]
    information = challenger * champion / looks
    gap = effect + noise[0] / np.maximum(challenger, 1) - noise[1] / np.maximum(champion, 1)
    tau2 = mixture_variance(planned * share * (1 - share), 2 * traffic.alpha)
    evidence = mixture_log_e(gap * np.sqrt(information), information, tau2)
    rich = (evidence >= -math.log(traffic.alpha)) & (np.minimum(challenger, champion) >= BURN_IN)
    return np.where(rich.any(axis=1), looks[rich.argmax(axis=1)], math.inf)


def plan_events(champion: float, challenger: float, traffic: Traffic) -> Plan:
    """How soon a rise of the rate of bad outcomes from the champion's to the challenger's shows."""
    return Plan.of(event_alarms(champion, challenger, traffic))


def plan_means(effect: float, traffic: Traffic, planned: int = 10_000) -> Plan:
    """How soon harm of that many standard deviations shows."""
    return Plan.of(mean_alarms(effect, traffic, planned))


def plan_paired(effect: float, deviation: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Held-out examples needed to tell `effect` from the margin: its distance from it, and the standard deviation of
    the differences, in the metric's units.

    Source: the normal approximation, ((z(1 - alpha / 2) + z(power)) * deviation / effect)^2.
    """
    from scipy.special import ndtri

    return math.ceil(((float(ndtri(1 - alpha / 2)) + float(ndtri(power))) * deviation / effect) ** 2)
