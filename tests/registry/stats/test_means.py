"""Averages under peeking: moments that add up, the formulae as integrals, and intervals that cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.integrate import quad
from scipy.stats import norm

from llmops.core.errors import UserError
from llmops.registry.stats import Cuped, MeanProcess, Moments
from llmops.registry.stats.means import mixture_log_e, mixture_variance

VALUES = st.lists(st.floats(-1e4, 1e4), max_size=30)


def drawn(rng: np.random.Generator, n: int, mean: float = 0.0) -> Moments:
    return Moments.of(rng.normal(mean, 1, size=n))


@settings(max_examples=150, deadline=None)
@given(VALUES, VALUES, VALUES)
def test_moments_add_up_in_any_grouping(a: list[float], b: list[float], c: list[float]) -> None:
    left = (Moments.of(a) + Moments.of(b)) + Moments.of(c)
    right = Moments.of(c) + (Moments.of(b) + Moments.of(a))
    whole = a + b + c
    assert left.n == right.n == len(whole)
    if whole:
        for found in (left, right):
            assert found.mean == pytest.approx(np.mean(whole), abs=1e-8)
            assert found.squares == pytest.approx(np.var(whole) * len(whole), rel=1e-6, abs=1e-6)


def test_values_far_from_zero_keep_their_variance() -> None:
    parts = [Moments.of([1e9 + n, 1e9 - n]) for n in (1, 2)]
    assert (parts[0] + parts[1]).squares == pytest.approx(10)


@pytest.mark.parametrize("z", [-6.0, -1.0, 0.0, 2.5, 5.0])
@pytest.mark.parametrize("information", [3.0, 400.0])
def test_the_e_value_is_its_integral(z: float, information: float) -> None:
    """The likelihood ratio of a normal effect against none, over a half-normal effect."""
    tau = 0.05
    score = z * math.sqrt(information)
    integral, _ = quad(
        lambda effect: 2 * norm.pdf(effect, 0, tau) * math.exp(effect * score - effect**2 * information / 2), 0, 1
    )
    assert float(mixture_log_e(z, information, tau**2)) == pytest.approx(math.log(integral), abs=1e-6)


def test_the_mixture_is_tuned_to_the_tightest_interval() -> None:
    def width(tau2: float, information: float) -> float:
        spread = information * tau2
        return (1 + spread) / spread * (math.log1p(spread) - 2 * math.log(0.05))

    best = mixture_variance(1000, 0.05)
    assert width(best, 1000) <= 1.001 * min(width(best * factor, 1000) for factor in np.geomspace(0.1, 10, 200))


def test_the_interval_is_equation_9() -> None:
    rng = np.random.default_rng(0)
    champion, challenger = drawn(rng, 5_000), drawn(rng, 5_000, 0.2)
    found = MeanProcess(propensity=0.5).update(champion, challenger).conclude()
    both = champion + challenger
    rho2 = mixture_variance(2_500, 0.05)  # per unit of information, which is a quarter of the requests
    t, variance = 2_500.0, both.squares / both.n
    half = math.sqrt(variance) * math.sqrt(
        2 * (t * rho2 + 1) / (t**2 * rho2) * math.log(math.sqrt(t * rho2 + 1) / 0.05)
    )
    assert found.effect == pytest.approx(challenger.mean - champion.mean)
    assert found.ci_high - (found.effect or 0) == pytest.approx(half)
    z = (found.effect or 0) * math.sqrt(t / variance)
    assert found.e_value == pytest.approx(math.exp(mixture_log_e(z, t, mixture_variance(2_500, 0.1))))
    assert found.verdict == "fail"


def test_the_interval_covers_at_every_look() -> None:
    rng, missed = np.random.default_rng(0), 0
    for _ in range(200):
        process, out = MeanProcess(propensity=0.3), False
        for _ in range(20):
            process = process.update(
                Moments.of(rng.lognormal(0, 0.5, size=210)), Moments.of(0.3 + rng.lognormal(0, 0.5, size=90))
            )
            found = process.conclude()
            out = out or not found.ci_low <= 0.3 <= found.ci_high
        missed += out
    assert missed <= 18  # of 200; 10 expected at most


def test_nothing_is_said_before_a_hundred_in_each_arm() -> None:
    rng = np.random.default_rng(0)
    process = MeanProcess(propensity=0.1).update(drawn(rng, 1_000), drawn(rng, 99, 5.0))
    found = process.conclude()
    assert (found.verdict, found.effect, found.ci_high, found.e_value) == ("inconclusive", None, math.inf, 1.0)
    assert process.update(Moments(), drawn(rng, 1, 5.0)).conclude().verdict == "fail"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=5), st.integers(0, 5))
def test_the_cut_of_the_traffic_does_not_matter_and_json_keeps_it(sizes: list[int], stop: int) -> None:
    rng = np.random.default_rng(sum(sizes))
    batches = [(drawn(rng, size), drawn(rng, size, 0.1)) for size in sizes]
    process = MeanProcess(propensity=0.5)
    for place, (champion, challenger) in enumerate(batches):
        if place == stop:
            process = MeanProcess.model_validate_json(process.model_dump_json())
        process = process.update(champion, challenger)
    whole = MeanProcess(propensity=0.5).update(
        sum((batch[0] for batch in batches), Moments()), sum((batch[1] for batch in batches), Moments())
    )
    cut, merged = process.conclude(), whole.conclude()
    for name in ("effect", "ci_low", "ci_high", "e_value", "srm_p"):
        assert getattr(cut, name) == pytest.approx(getattr(merged, name))


def test_swapping_the_arms_turns_the_effect_and_so_does_the_bad_end() -> None:
    rng = np.random.default_rng(0)
    one, other = drawn(rng, 3_000), drawn(rng, 3_000, 0.1)
    straight = MeanProcess(propensity=0.5).update(one, other).conclude()
    swapped = MeanProcess(propensity=0.5, bad="low").update(other, one).conclude()
    assert straight.effect == pytest.approx(-(swapped.effect or 0))
    assert (straight.ci_low, straight.e_value) == pytest.approx((-swapped.ci_high, swapped.e_value))


def test_a_growing_share_and_a_metric_that_drifts_are_no_effect() -> None:
    """The metric rises while the canary grows: pooled, the challenger's later values would look like harm."""
    rng, process = np.random.default_rng(0), MeanProcess(propensity=0.05, margin=0.2)
    for share, level in ((0.05, 0.0), (0.25, 1.0), (0.5, 3.0)):
        theirs = int(8_000 * share)
        process = process.update(drawn(rng, 8_000 - theirs, level), drawn(rng, theirs, level), share)
    assert process.conclude().verdict == "pass"


@pytest.mark.parametrize(
    ("margin", "shift", "verdict"),
    [(0.1, 0.0, "pass"), (0.1, 0.3, "fail"), (0.3, 0.1, "pass"), (0.01, 0.0, "inconclusive"),
     (0.0, -0.2, "pass"), (-0.1, -0.3, "pass"), (-0.1, 0.0, "fail"), (-0.1, -0.1, "inconclusive")],
)  # fmt: skip
def test_margins(margin: float, shift: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    process = MeanProcess(propensity=0.5, margin=margin)
    assert process.update(drawn(rng, 20_000), drawn(rng, 20_000, shift)).conclude().verdict == verdict


def test_cuped_keeps_the_effect_and_takes_the_noise() -> None:
    rng = np.random.default_rng(0)
    past = rng.normal(10, 3, size=20_000)
    values = past + rng.normal(0, 1, size=20_000) + 0.5 * (np.arange(20_000) % 2)
    cuped = Cuped.fit(values, past)
    adjusted = cuped.adjust(values, past)
    assert cuped.theta == pytest.approx(np.polyfit(past, values, 1)[0])
    assert adjusted.mean() == pytest.approx(values.mean())
    assert np.var(adjusted) / np.var(values) == pytest.approx(cuped.variance_kept, rel=1e-3)
    assert cuped.variance_kept < 0.15
    assert adjusted[1::2].mean() - adjusted[::2].mean() == pytest.approx(0.5, abs=0.05)


def test_cuped_without_a_past_that_varies_changes_nothing() -> None:
    cuped = Cuped.fit([1.0, 2.0, 4.0], [7.0, 7.0, 7.0])
    assert cuped.variance_kept == 1
    assert cuped.adjust([5.0], [7.0]).tolist() == [5.0]
    with pytest.raises(UserError, match="one past for each value"):
        Cuped.fit([1.0, 2.0], [1.0])


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValidationError):
        Moments.of([1.0, math.nan])
    with pytest.raises(UserError, match="between 0 and 1"):
        MeanProcess(propensity=0.5).update(Moments(), Moments(), 0.0)
