"""The exact test of bad outcomes: a fair game under the null, whatever was seen before, and a value that keeps."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llmops.core.errors import UserError
from llmops.registry.stats import EventProcess, Tally
from llmops.registry.stats.events import EFFECTS, RATIOS, advance, log_wealth, purses

RATES = st.floats(0.001, 0.999)
SHARES = st.floats(0.005, 0.995)
TALLIES = st.integers(0, 50).flatmap(lambda n: st.builds(Tally, n=st.just(n), bad=st.integers(0, n)))
BATCHES = st.lists(st.tuples(TALLIES, TALLIES), min_size=1, max_size=6)
NOTHING = np.zeros(len(EFFECTS))


def factor(seen: tuple[float, float], arm: int, bad: int, share: float) -> np.ndarray:
    """What one request multiplies each purse by."""
    arms = (bad, 1, 0, 0) if arm == 0 else (0, 0, bad, 1)
    return np.exp(advance(NOTHING, seen, arms, share))


def fed(process: EventProcess, batches: list[tuple[Tally, Tally]]) -> EventProcess:
    for champion, challenger in batches:
        process = process.update(champion, challenger)
    return process


@settings(max_examples=200, deadline=None)
@given(RATES, RATES, SHARES, st.integers(0, 1000), st.integers(0, 1000))
def test_no_request_is_expected_to_pay_where_the_challenger_is_no_worse(
    one: float, other: float, share: float, bad: int, good: int
) -> None:
    for rates in ((max(one, other), min(one, other)), (one, one)):
        expected = np.zeros(len(EFFECTS))
        for arm, outcome in product((0, 1), (0, 1)):
            chance = (share if arm else 1 - share) * (rates[arm] if outcome else 1 - rates[arm])
            expected += chance * factor((bad, bad + good), arm, outcome, share)
        assert (expected <= 1 + 1e-9).all()
        if rates[0] == rates[1]:
            np.testing.assert_allclose(expected, 1, rtol=1e-9)


def test_the_purses_hold_one_together() -> None:
    for share in (0.5, 0.1, 0.01):
        assert log_wealth(purses(share)) == pytest.approx(0)


def test_a_batch_is_its_requests_in_any_order() -> None:
    arms = (3, 40, 2, 9)
    whole = advance(purses(0.2), (5, 100), arms, 0.2)
    parts = purses(0.2)
    for arm, bad, times in ((1, 1, 2), (0, 0, 37), (1, 0, 7), (0, 1, 3)):
        parts = parts + times * np.log(factor((5, 100), arm, bad, 0.2))
    np.testing.assert_allclose(whole, parts, rtol=1e-9)


@settings(max_examples=100, deadline=None)
@given(TALLIES, TALLIES, SHARES, st.integers(0, 500), st.integers(500, 1000))
def test_swapping_arms_and_outcomes_changes_nothing(
    champion: Tally, challenger: Tally, share: float, bad: int, n: int
) -> None:
    """More bad ones at the challenger are more good ones at the champion."""
    mirrored = n - bad + 39  # gives the estimate 1 - rate
    straight = advance(NOTHING, (bad, n), (champion.bad, champion.n, challenger.bad, challenger.n), share)
    swapped = (challenger.n - challenger.bad, challenger.n, champion.n - champion.bad, champion.n)
    np.testing.assert_allclose(straight, advance(NOTHING, (mirrored, n), swapped, 1 - share), rtol=1e-6, atol=1e-8)


@settings(max_examples=50, deadline=None)
@given(BATCHES)
def test_counts_and_interval_do_not_depend_on_how_the_traffic_was_cut(batches: list[tuple[Tally, Tally]]) -> None:
    start = EventProcess(propensity=0.3)
    merged = (sum((b[0] for b in batches), Tally(n=0, bad=0)), sum((b[1] for b in batches), Tally(n=0, bad=0)))
    cut, whole = fed(start, batches).conclude(), fed(start, [merged]).conclude()
    for name in ("effect", "ci_low", "ci_high", "n_champion", "n_challenger", "srm_p"):
        assert getattr(cut, name) == pytest.approx(getattr(whole, name))
    assert cut.looks == len(batches)


@settings(max_examples=50, deadline=None)
@given(BATCHES, st.data())
def test_a_process_kept_as_json_goes_on_as_if_it_had_never_stopped(
    batches: list[tuple[Tally, Tally]], data: st.DataObject
) -> None:
    stop = data.draw(st.integers(0, len(batches)))
    kept = fed(EventProcess(propensity=0.3), batches[:stop]).model_dump_json()
    resumed = fed(EventProcess.model_validate_json(kept), batches[stop:])
    assert resumed == fed(EventProcess(propensity=0.3), batches)


def test_the_class_is_what_the_simulation_runs() -> None:
    rng = np.random.default_rng(0)
    process, purse, seen = EventProcess(propensity=0.1), purses(0.1), 0
    for look in range(20):
        champion, challenger = Tally(n=90, bad=int(rng.binomial(90, 0.1))), Tally(n=10, bad=int(rng.binomial(10, 0.3)))
        process = process.update(champion, challenger)
        purse = advance(purse, (seen, 100 * look), (champion.bad, 90, challenger.bad, 10), 0.1)
        seen += champion.bad + challenger.bad
    assert process.conclude().e_value == pytest.approx(math.exp(log_wealth(purse)))


def test_an_alarm_stays_though_the_evidence_wanes() -> None:
    process = EventProcess(propensity=0.5, margin=1.0).update(Tally(n=50, bad=0), Tally(n=50, bad=25))
    assert process.conclude().verdict == "fail"
    for _ in range(10):
        process = process.update(Tally(n=50, bad=30), Tally(n=50, bad=0))
    found = process.conclude()
    assert found.e_value is not None
    assert found.p_value is not None
    assert found.e_value < 1 / process.alpha
    assert found.p_value < process.alpha
    assert found.verdict == "fail"


def test_harm_beyond_the_margin_excluded_passes_and_little_data_decides_nothing() -> None:
    process = EventProcess(propensity=0.5)
    assert process.conclude().verdict == "inconclusive"
    assert process.update(Tally(n=100, bad=3), Tally(n=100, bad=3)).conclude().verdict == "inconclusive"
    assert process.update(Tally(n=50_000, bad=1_500), Tally(n=50_000, bad=1_500)).conclude().verdict == "pass"
    asked = EventProcess(propensity=0.5, margin=0.9)  # a tenth fewer
    assert asked.update(Tally(n=50_000, bad=1_500), Tally(n=50_000, bad=1_500)).conclude().verdict == "inconclusive"
    assert asked.update(Tally(n=50_000, bad=1_500), Tally(n=50_000, bad=900)).conclude().verdict == "pass"


def test_stages_are_compared_each_in_itself() -> None:
    """A night of many errors while the canary was small: pooled it would speak for the challenger."""
    process = EventProcess(propensity=0.05)
    process = process.update(Tally(n=9_500, bad=2_850), Tally(n=500, bad=150), 0.05)
    process = process.update(Tally(n=5_000, bad=50), Tally(n=5_000, bad=50), 0.5)
    found = process.conclude()
    assert found.effect == pytest.approx(1)
    assert found.ci_low < 1 < found.ci_high
    assert found.srm_p == pytest.approx(1)


def test_the_interval_of_the_ratio_covers_it_at_every_look() -> None:
    rng, missed = np.random.default_rng(1), 0
    grid = np.exp(RATIOS[1] - RATIOS[0])
    for _ in range(150):
        process, out = EventProcess(propensity=0.2), False
        for _ in range(15):
            theirs = int(rng.binomial(400, 0.2))
            process = process.update(
                Tally(n=400 - theirs, bad=int(rng.binomial(400 - theirs, 0.05))),
                Tally(n=theirs, bad=int(rng.binomial(theirs, 0.10))),
            )
            found = process.conclude()
            out = out or not found.ci_low <= 2 <= found.ci_high
        missed += out
    assert grid == pytest.approx(1.02, abs=0.001)
    assert missed <= 12


def test_a_broken_split_shows_as_a_sample_ratio_mismatch() -> None:
    process = EventProcess(propensity=0.5)
    for _ in range(20):
        process = process.update(Tally(n=520, bad=0), Tally(n=480, bad=0))
    srm_p = process.conclude().srm_p
    assert srm_p is not None
    assert srm_p < 0.01


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5])
def test_a_propensity_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        EventProcess(propensity=0.5).update(Tally(n=1, bad=0), Tally(n=1, bad=0), share)
    with pytest.raises(ValidationError):
        EventProcess(propensity=share)


def test_more_bad_than_all_is_refused() -> None:
    with pytest.raises(ValidationError, match="3 bad outcomes of 2"):
        Tally(n=2, bad=3)


def test_thousands_of_errors_do_not_overflow() -> None:
    found = EventProcess(propensity=0.5).update(Tally(n=10**6, bad=0), Tally(n=10**6, bad=10**6))
    again = found.update(Tally(n=10**6, bad=0), Tally(n=10**6, bad=10**6)).conclude()
    assert again.verdict == "fail"
    assert math.isfinite(again.e_value or math.inf)
    assert again.ci_high == math.inf
