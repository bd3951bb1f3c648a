"""Quantiles under peeking: exact for any distribution, though only buckets are kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.core.errors import UserError
from llmops.registry.stats import Histogram, QuantileProcess
from llmops.registry.stats.quantiles import BUCKETS, GROWTH, SMALLEST, _Evidence

TIMES = st.lists(st.floats(0.01, 1e6), max_size=40)


def run(factor: float, share: float, looks: int, seed: int, p: float = 0.95) -> tuple[bool, bool, QuantileProcess]:
    """Whether it alarmed, and whether the interval ever missed the factor."""
    rng, process = np.random.default_rng(seed), QuantileProcess(propensity=share, p=p)
    missed = False
    for _ in range(looks):
        theirs = int(rng.binomial(500, share))
        times = rng.lognormal(5, 0.7, size=500)
        process = process.update(Histogram.of(times[theirs:]), Histogram.of(factor * times[:theirs]))
        found = process.conclude()
        missed = missed or not found.ci_low <= factor <= found.ci_high
    return process.peak >= math.log(20), missed, process


@settings(max_examples=100, deadline=None)
@given(TIMES, TIMES)
def test_histograms_add_up_and_bracket_every_value(a: list[float], b: list[float]) -> None:
    whole = Histogram.of(a + b)
    assert Histogram.of(a) + Histogram.of(b) == whole == Histogram.of(b) + Histogram.of(a)
    for value in a:
        (bucket,) = Histogram.of([value]).counts
        edge = SMALLEST * GROWTH**bucket
        assert edge / GROWTH * (1 - 1e-8) < value <= edge * (1 + 1e-8)
    if a:
        found = Histogram.of(a).quantile(0.5)
        exact = float(np.quantile(a, 0.5, method="inverted_cdf"))
        assert found == pytest.approx(exact, rel=GROWTH - 1 + 1e-6)


def test_values_out_of_range_go_to_the_ends_and_no_number_is_refused() -> None:
    assert Histogram.of([0.0, -3.0, 1e-9]).counts == {0: 3}
    assert Histogram.of([1e12, math.inf]).counts == {BUCKETS: 2}
    assert Histogram.of([]).quantile(0.5) is None
    with pytest.raises(UserError, match="takes numbers"):
        Histogram.of([1.0, math.nan])


def test_equal_arms_hardly_alarm_and_the_interval_covers() -> None:
    found = [run(1.0, 0.2, looks=12, seed=seed) for seed in range(60)]
    assert sum(alarmed for alarmed, _, _ in found) <= 5
    assert sum(missed for _, missed, _ in found) <= 5


@pytest.mark.parametrize(("factor", "share", "p"), [(1.3, 0.5, 0.95), (2.0, 0.1, 0.95), (1.15, 0.5, 0.5)])
def test_a_slower_challenger_alarms_and_the_interval_covers(factor: float, share: float, p: float) -> None:
    found = [run(factor, share, looks=12, seed=seed, p=p) for seed in range(12)]
    assert sum(alarmed for alarmed, _, _ in found) >= 11
    assert sum(missed for _, missed, _ in found) <= 2
    last = found[0][2].conclude()
    assert last.verdict == "fail"
    assert 1 < last.ci_low < factor < last.ci_high < 2 * factor


def test_a_faster_challenger_passes() -> None:
    _, _, process = run(0.7, 0.5, looks=20, seed=0)
    found = process.conclude()
    assert found.verdict == "pass"
    assert found.ci_high < 1


def test_evidence_falls_with_the_ratio_asked_for() -> None:
    """What the bisection rests on."""
    rng = np.random.default_rng(0)
    evidence = _Evidence(Histogram.of(rng.lognormal(size=300)), Histogram.of(rng.lognormal(0.2, size=200)), 0.9)
    shifts = range(-BUCKETS, BUCKETS + 1, 7)
    assert (np.diff([evidence.higher(shift) for shift in shifts]) <= 1e-9).all()
    assert (np.diff([evidence.lower(shift) for shift in shifts]) >= -1e-9).all()


@settings(max_examples=30, deadline=None)
@given(TIMES, TIMES)
def test_swapping_the_arms_turns_the_ratio_over(a: list[float], b: list[float]) -> None:
    one = QuantileProcess(propensity=0.5, p=0.5).update(Histogram.of(a), Histogram.of(b)).conclude()
    other = QuantileProcess(propensity=0.5, p=0.5).update(Histogram.of(b), Histogram.of(a)).conclude()
    if one.effect is not None and other.effect is not None:
        assert one.effect == pytest.approx(1 / other.effect)
    assert one.ci_low <= 1 / max(other.ci_low, 1e-300)
    assert one.ci_low <= one.ci_high


def test_the_cut_of_the_traffic_does_not_matter_and_json_keeps_it() -> None:
    rng = np.random.default_rng(0)
    parts = [(Histogram.of(rng.lognormal(size=200)), Histogram.of(rng.lognormal(0.3, size=50))) for _ in range(4)]
    process = QuantileProcess(propensity=0.2)
    for champion, challenger in parts:
        process = QuantileProcess.model_validate_json(process.model_dump_json()).update(champion, challenger)
    whole = QuantileProcess(propensity=0.2).update(
        sum((part[0] for part in parts), Histogram()), sum((part[1] for part in parts), Histogram())
    )
    cut, merged = process.conclude(), whole.conclude()
    for name in ("effect", "ci_low", "ci_high", "e_value", "srm_p", "verdict"):
        assert getattr(cut, name) == getattr(merged, name)


def test_nothing_seen_says_nothing() -> None:
    found = QuantileProcess(propensity=0.5).conclude()
    assert (found.verdict, found.effect, found.ci_low, found.ci_high) == ("inconclusive", None, 0.0, math.inf)
