"""Paired comparisons against scipy, by their coverage, and by what a gate makes of them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, permutation_test
from sklearn.metrics import f1_score

from llmops.core.errors import UserError
from llmops.registry.stats import Rule, by_slice, mcnemar, paired_bootstrap, paired_permutation
from llmops.registry.stats.paired import _bca

QUICK = Rule(resamples=999)


def arms(gain: float, n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two arms that agree mostly, as two versions of one system do."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n)
    return difficulty + rng.exponential(0.3, size=n), difficulty + rng.exponential(0.3, size=n) + gain


def test_the_interval_is_scipys_bca() -> None:
    """Exactly, over the same resamples, of a skewed sample; two draws of 10,000 differ by a percent of the width."""
    differences = np.random.default_rng(0).exponential(size=60)
    theirs = bootstrap((differences,), np.mean, method="BCa", rng=1)
    left_out = np.array([np.delete(differences, place).mean() for place in range(60)])
    low, high = _bca(float(differences.mean()), theirs.bootstrap_distribution, left_out, 0.05)
    assert (low, high) == pytest.approx((theirs.confidence_interval.low, theirs.confidence_interval.high), rel=1e-9)
    found = paired_bootstrap(np.zeros(60), differences)
    assert found.effect == pytest.approx(differences.mean())
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), abs=0.04 * (high - low))


def test_equal_seeds_give_equal_findings() -> None:
    assert paired_bootstrap(*arms(0.1), QUICK) == paired_bootstrap(*arms(0.1), QUICK)
    other = paired_bootstrap(*arms(0.1), QUICK.model_copy(update={"seed": 1}))
    assert other.ci_low != paired_bootstrap(*arms(0.1), QUICK).ci_low
    assert other.seed == 1


def test_the_bootstrap_covers() -> None:
    missed = 0
    for seed in range(300):
        found = paired_bootstrap(*arms(0.1, n=60, seed=seed), QUICK)
        missed += not found.ci_low <= 0.1 <= found.ci_high
    assert 3 <= missed <= 30  # of 300; 15 expected


def test_a_metric_of_the_whole_sample_is_resampled_by_rows() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=400)
    champion = np.where(rng.random(400) < 0.75, labels, 1 - labels)
    challenger = np.where(rng.random(400) < 0.95, labels, 1 - labels)

    def f1(rows: np.ndarray) -> float:
        return float(f1_score(rows[:, 0], rows[:, 1]))

    old, new = np.column_stack([labels, champion]), np.column_stack([labels, challenger])
    found = paired_bootstrap(old, new, Rule(resamples=100), metric=f1)
    assert found.effect == pytest.approx(f1(new) - f1(old))
    assert found.verdict == "pass"
    assert 0 < found.ci_low < (found.effect or 0) < found.ci_high


def test_a_metric_that_most_samples_do_not_have_decides_nothing() -> None:
    rows = np.zeros((50, 1))
    found = paired_bootstrap(rows, rows, QUICK, metric=lambda sample: float("nan"))
    assert found.verdict == "inconclusive"
    assert found.as_evidence()["effect"] is None


@pytest.mark.parametrize("gain", [0.0, 0.06])
def test_the_permutation_p_value_is_scipys(gain: float) -> None:
    champion, challenger = arms(gain, n=100, seed=3)
    theirs = permutation_test(
        (challenger, champion), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=9_999,
        vectorized=False, rng=0,
    )  # fmt: skip
    found = paired_permutation(champion, challenger, Rule(resamples=9_999))
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.02)


def test_permuting_equal_arms_gives_one() -> None:
    champion, _ = arms(0)
    assert paired_permutation(champion, champion, QUICK).p_value == 1.0


@pytest.mark.parametrize(("both", "gained", "lost", "neither"), [(80, 12, 3, 5), (50, 0, 0, 50), (0, 10, 0, 90)])
def test_mcnemar_is_the_exact_test_of_the_discordant(both: int, gained: int, lost: int, neither: int) -> None:
    champion = np.repeat([True, False, True, False], [both, gained, lost, neither])
    challenger = np.repeat([True, True, False, False], [both, gained, lost, neither])
    found = mcnemar(champion, challenger)
    exact = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert found.p_value == pytest.approx(exact)
    assert found.effect == pytest.approx((gained - lost) / 100)
    assert found.ci_low <= (found.effect or 0) <= found.ci_high
    mirrored = mcnemar(challenger, champion)
    assert (mirrored.ci_low, mirrored.ci_high) == pytest.approx((-found.ci_high, -found.ci_low))


def test_the_score_interval_covers_where_few_examples_differ() -> None:
    rng, missed = np.random.default_rng(0), 0
    for _ in range(2_000):
        kinds = rng.choice(4, size=100, p=[0.8, 0.05, 0.03, 0.12])
        found = mcnemar(np.isin(kinds, [0, 2]), np.isin(kinds, [0, 1]))
        missed += not found.ci_low <= 0.02 <= found.ci_high
    assert missed <= 120  # of 2,000; 100 expected


@pytest.mark.parametrize(
    ("gain", "margin", "verdict"),
    [(0.3, 0.0, "pass"), (-0.3, 0.0, "fail"), (0.0, 0.0, "inconclusive"), (0.0, 0.2, "pass"), (-0.1, 0.2, "pass"),
     (-0.5, 0.2, "fail"), (0.5, -0.2, "pass"), (0.1, -0.3, "fail"), (0.2, -0.2, "inconclusive")],
)  # fmt: skip
@pytest.mark.parametrize("compare", [paired_bootstrap, paired_permutation])
def test_margins_of_no_harm_and_of_gain(compare: object, gain: float, margin: float, verdict: str) -> None:
    champion, challenger = arms(gain)
    challenger = challenger - (challenger - champion).mean() + gain  # the sample's effect is the one meant
    rule = QUICK.model_copy(update={"margin": margin})
    assert compare(champion, challenger, rule).verdict == verdict  # type: ignore[operator]
    turned = rule.model_copy(update={"bad": "high"})
    assert compare(-champion, -challenger, turned).verdict == verdict  # type: ignore[operator]


def test_few_examples_decide_nothing() -> None:
    champion, challenger = arms(1.0, n=29)
    assert paired_bootstrap(champion, challenger, QUICK).verdict == "inconclusive"
    assert paired_bootstrap(champion, challenger, QUICK.model_copy(update={"least": 29})).verdict == "pass"


def test_a_slice_that_is_hurt_fails_the_whole() -> None:
    champion, challenger = arms(0.3, n=400)
    german = np.arange(400) < 80
    challenger = np.where(german, challenger - 0.8, challenger)
    assert paired_bootstrap(champion, challenger, QUICK).verdict == "pass"
    slices = {"all": np.ones(400, bool), "german": german, "other": np.flatnonzero(~german)}
    verdict, found = by_slice(paired_bootstrap, champion, challenger, slices, QUICK)
    assert verdict == "fail"
    assert {name: conclusion.verdict for name, conclusion in found.items()} == {
        "all": "pass", "german": "fail", "other": "pass",
    }  # fmt: skip
    assert found["german"].n_challenger == 80
    assert found["german"].alpha == pytest.approx(0.05 / 3)
    small = {"other": ~german, "rare": np.arange(400) >= 395}
    assert by_slice(partial(mcnemar), champion > 0, challenger > 0, small)[0] != "pass"
    assert by_slice(paired_bootstrap, champion, challenger, {}, QUICK)[0] == "inconclusive"


@pytest.mark.parametrize(
    ("champion", "challenger", "told"),
    [([1.0], [1.0, 2.0], "same examples"), ([], [], "at least one"), ([1.0, float("nan")], [1.0, 2.0], "finite")],
)
def test_arms_that_are_no_pairs_are_refused(champion: list[float], challenger: list[float], told: str) -> None:
    for compare in (paired_bootstrap, paired_permutation, mcnemar):
        with pytest.raises(UserError, match=told):
            compare(champion, challenger)
