"""What the tests promise, by drawn traffic: 2,000 runs each, looked at every 100 of 20,000 requests, seeds fixed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmops.registry.stats import Traffic, clopper_pearson, plan_events
from llmops.registry.stats.means import BURN_IN, mixture_log_e, mixture_variance
from llmops.registry.stats.planning import event_alarms, mean_alarms

ALPHA = 0.05
RUNS = 2_000


def at_least(alarms: np.ndarray) -> float:
    """The 99% lower bound of the rate of alarms."""
    return clopper_pearson(int(np.isfinite(alarms).sum()), len(alarms), 0.02)[0]


def counted(rates: tuple[float, float], share: float, runs: int = RUNS, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Cumulative (champion n, bad, challenger n, bad) at each look."""
    rng = np.random.default_rng(seed)
    theirs = rng.binomial(100, share, size=(runs, 200))
    bad = rng.binomial(100 - theirs, rates[0]), rng.binomial(theirs, rates[1])
    return tuple(np.cumsum(counts, axis=1) for counts in (100 - theirs, bad[0], theirs, bad[1]))


def first(rich: np.ndarray) -> np.ndarray:
    return np.where(rich.any(axis=1), (rich.argmax(axis=1) + 1) * 100.0, math.inf)


def z_scores(counts: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """z of the difference with the variance of both arms together, and its information."""
    n, bad, challenger_n, challenger_bad = counts
    information = n * challenger_n / (n + challenger_n)
    rate = (bad + challenger_bad) / (n + challenger_n)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = challenger_bad / challenger_n - bad / n
        return np.nan_to_num(gap * np.sqrt(information / (rate * (1 - rate)))), information


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("rate", [0.30, 0.01])
def test_equal_rates_alarm_no_more_often_than_alpha(rate: float, share: float) -> None:
    alarms = event_alarms(rate, rate, Traffic(propensity=share, runs=RUNS))
    assert np.isfinite(alarms).any()
    assert at_least(alarms) <= ALPHA


def test_a_challenger_that_is_better_hardly_ever_alarms() -> None:
    alarms = event_alarms(0.30, 0.27, Traffic(propensity=0.5, runs=RUNS))
    assert np.isfinite(alarms).mean() < 0.01


@pytest.mark.parametrize(
    ("rates", "share", "median"),
    [
        ((0.30, 0.33), 0.5, 6_000),
        ((0.30, 0.40), 0.1, 1_600),
        ((0.01, 0.05), 0.1, 1_200),
        ((0.01, 0.05), 0.01, 8_000),
        ((0.01, 0.20), 0.01, 1_400),
    ],
)
def test_harm_is_found_as_soon_as_by_the_best_method_known_for_each_case(
    rates: tuple[float, float], share: float, median: int
) -> None:
    plan = plan_events(*rates, Traffic(propensity=share, runs=RUNS))
    assert plan.median is not None
    assert plan.median <= 1.1 * median
    assert plan.power > 0.85


def test_a_naive_z_test_fails_the_same_simulation() -> None:
    z, _ = z_scores(counted((0.30, 0.30), 0.5))
    assert at_least(first(z >= 1.645)) > 0.2


def test_a_rate_that_drifts_in_both_arms_is_no_alarm() -> None:
    """From 1% to 60% and back: the arms stay equal at every moment, and that is all the test assumes."""
    from llmops.registry.stats.events import advance, log_wealth, purses

    rng, runs = np.random.default_rng(0), 1_000
    purse, bad = np.broadcast_to(purses(0.1), (runs, len(purses(0.1)))), np.zeros(runs)
    alarmed = np.zeros(runs, dtype=bool)
    for look in range(100):
        rate = 0.01 + 0.59 * math.sin(math.pi * look / 100)
        theirs = rng.binomial(100, 0.1, size=runs)
        hurt, ours = rng.binomial(theirs, rate), rng.binomial(100 - theirs, rate)
        purse = advance(purse, (bad, 100 * look), (ours, 100 - theirs, hurt, theirs), 0.1)
        bad = bad + ours + hurt
        alarmed |= log_wealth(purse) >= math.log(20)
    assert at_least(np.where(alarmed, 1.0, math.inf)) <= ALPHA


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("rate", [0.30, 0.01])
def test_means_alarm_no_more_often_than_alpha_even_on_rare_events(rate: float, share: float) -> None:
    counts = counted((rate, rate), share)
    z, information = z_scores(counts)
    tau2 = mixture_variance(10_000 * share * (1 - share), 2 * ALPHA)
    rich = mixture_log_e(z, information, tau2) >= -math.log(ALPHA)
    assert at_least(first(rich & (np.minimum(counts[0], counts[2]) >= BURN_IN))) <= ALPHA


def test_means_need_the_variance_of_both_arms_and_the_burn_in() -> None:
    """What the two rules are for: without them the same confidence sequence alarms far too often on rare errors."""
    n, bad, challenger_n, challenger_bad = counted((0.01, 0.01), 0.1)
    rates = bad / n, challenger_bad / np.maximum(challenger_n, 1)
    variance = rates[0] * (1 - rates[0]) / n + rates[1] * (1 - rates[1]) / np.maximum(challenger_n, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.nan_to_num(np.abs(rates[1] - rates[0]) / np.sqrt(variance))
    evidence = mixture_log_e(z, n * challenger_n / (n + challenger_n), mixture_variance(900.0, ALPHA))
    assert at_least(first(evidence >= -math.log(ALPHA))) > ALPHA


def test_means_find_harm_as_soon_as_in_the_table() -> None:
    deviation = math.sqrt(0.315 * 0.685)
    traffic = Traffic(propensity=0.5, runs=RUNS)
    assert np.median(mean_alarms(0.03 / deviation, traffic)) <= 1.1 * 6_000
    assert at_least(mean_alarms(0.0, traffic)) <= ALPHA
