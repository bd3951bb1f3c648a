"""Counts of yes and no, and several metrics at once, against scipy and against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, binomtest, false_discovery_control

from llmops.core.errors import UserError
from llmops.registry.stats import benjamini_hochberg, bonferroni, clopper_pearson, e_bh, sample_ratio_p, wilson
from llmops.registry.stats.binomial import log_e

COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(COUNTS, st.sampled_from([0.01, 0.05, 0.2]))
def test_intervals_are_scipys(counts: tuple[int, int], alpha: float) -> None:
    exact = binomtest(*counts).proportion_ci(1 - alpha, method="exact")
    score = binomtest(*counts).proportion_ci(1 - alpha, method="wilson")
    assert clopper_pearson(*counts, alpha) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert wilson(*counts, alpha) == pytest.approx((score.low, score.high), abs=1e-9)


def test_no_trials_say_nothing_and_impossible_counts_are_refused() -> None:
    assert clopper_pearson(0, 0) == wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(UserError, match="no count of successes"):
        wilson(3, 2)


@pytest.mark.parametrize("side", ["below", "above", "both"])
@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 20), (30, 60), (57, 60)])
def test_the_e_value_is_its_integral(side: str, successes: int, n: int) -> None:
    p, prior = 0.4, beta(20 * 0.4, 20 * 0.6)
    start, end = {"below": (0, p), "above": (p, 1), "both": (0, 1)}[side]

    def ratio(q: float) -> float:
        return float(prior.pdf(q)) * (q / p) ** successes * ((1 - q) / (1 - p)) ** (n - successes)

    integral = quad(ratio, start, end)[0] / quad(prior.pdf, start, end)[0]
    assert float(log_e(successes, n, p, side, 20.0)) == pytest.approx(math.log(integral), abs=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["below", "above", "both"])
def test_the_next_trial_is_a_fair_game_at_p_and_a_losing_one_on_the_rest_of_the_null(side: str) -> None:
    for successes, n in ((0, 0), (5, 30), (29, 30)):
        now = float(log_e(successes, n, 0.3, side, 100.0))  # type: ignore[arg-type]
        hit, miss = (math.exp(float(log_e(successes + k, n + 1, 0.3, side, 100.0)) - now) for k in (1, 0))  # type: ignore[arg-type]
        assert 0.3 * hit + 0.7 * miss == pytest.approx(1)
        if side == "below":
            assert 0.5 * hit + 0.5 * miss <= 1
        if side == "above":
            assert 0.1 * hit + 0.9 * miss <= 1


def test_far_in_the_tail_evidence_is_lost_and_never_made_up() -> None:
    """Where the incomplete beta function underflows; a ratio of likelihoods at p or below cannot exceed 1 there."""
    for successes in (9_000, 10_000):
        assert -20 < float(log_e(successes, 10_000, 0.5, "below", 100.0)) < 0
        assert float(log_e(10_000 - successes, 10_000, 0.5, "above", 100.0)) < 0


def test_sample_ratio_is_quiet_under_peeking_and_sees_a_skew() -> None:
    rng = np.random.default_rng(0)
    looks = np.arange(100, 20_001, 100)
    challenger = np.cumsum(rng.binomial(100, 0.1, size=(1_000, 200)), axis=1)
    wealth = np.stack([log_e(challenger[:, k], int(n), 0.1, "both", 1000.0) for k, n in enumerate(looks)], axis=1)
    alarms = int((wealth.max(axis=1) >= math.log(20)).sum())
    assert clopper_pearson(alarms, 1_000, 0.02)[0] <= 0.05
    assert sample_ratio_p([(9_000, 1_000, 0.1)]) == 1.0
    assert sample_ratio_p([(17_800, 2_200, 0.1)]) < 0.01
    assert sample_ratio_p([(9_000, 1_000, 0.1), (5_000, 5_000, 0.5)]) == 1.0
    assert sample_ratio_p([]) == 1.0


@settings(max_examples=100, deadline=None)
@given(P_VALUES)
def test_benjamini_hochberg_is_scipys_and_bonferroni_its_definition(p_values: list[float]) -> None:
    np.testing.assert_allclose(benjamini_hochberg(p_values), false_discovery_control(p_values), atol=1e-12)
    assert bonferroni(p_values).tolist() == [min(p * len(p_values), 1.0) for p in p_values]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=10), st.sampled_from([0.05, 0.2]))
def test_e_bh_finds_the_largest_set_that_vouches_for_itself(e_values: list[float], alpha: float) -> None:
    found = e_bh(e_values, alpha)
    sizes = [k for k in range(1, len(e_values) + 1) if sorted(e_values)[-k] >= len(e_values) / (alpha * k)]
    least = sorted(e_values)[-max(sizes)] if sizes else math.inf
    assert found.tolist() == [e >= least for e in e_values]


def test_e_bh_keeps_the_share_of_false_findings_under_dependence() -> None:
    rng, shares = np.random.default_rng(0), []
    for _ in range(500):
        common = rng.normal()
        z = 0.9 * common + math.sqrt(1 - 0.81) * rng.normal(size=10) + np.where(np.arange(10) < 3, 4, 0)
        found = e_bh(np.exp(2 * z - 2), 0.1)
        shares.append(found[3:].sum() / max(found.sum(), 1))
    assert np.mean(shares) <= 0.1


@pytest.mark.parametrize("call", [bonferroni, benjamini_hochberg, e_bh])
def test_what_is_no_evidence_is_refused(call: object) -> None:
    for bad in ([math.nan], [-0.1]):
        with pytest.raises(UserError):
            call(bad)  # type: ignore[operator]
