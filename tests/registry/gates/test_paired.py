"""What a comparison claims, by simulation: it seldom promotes what is no better, and finds what is better or worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.registry.gates.judged import Judged
from llmops.registry.gates.metrics import metric
from llmops.registry.gates.paired import decide, measured_rows, measured_scores
from llmops.registry.gates.report import Finding
from llmops.registry.gates.spec import ComparisonSpec

ALPHA = 0.05


def spec(**asked: Any) -> ComparisonSpec:
    values = {
        "data": {"table": "x", "label": "y"},
        "metric": "accuracy",
        "alpha": ALPHA,
        "resamples": 400,
        "min_rows": 20,
    }
    return ComparisonSpec.model_validate(values | asked)


def scores(rng: np.random.Generator, n: int, good: float, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong of two sides that agree on hard and easy rows; the second is better by `shift`."""
    ease = rng.normal(0, 1, n)
    old = (ease + rng.normal(0, 1, n) < good).astype(float)
    new = (ease + rng.normal(0, 1, n) < good + shift).astype(float)
    return old, new


def first(old: np.ndarray, new: np.ndarray, **asked: Any) -> Finding:
    return decide(measured_scores("score", old, new), (), {}, spec(**asked))[1][0]


@pytest.mark.parametrize("n", [20, 40, 150])
@pytest.mark.parametrize("kind", ["right or wrong", "continuous"])
def test_an_equal_challenger_is_seldom_promoted(n: int, kind: str) -> None:
    rng, promoted, refused = np.random.default_rng(n), 0, 0
    for _ in range(200):
        old, new = scores(rng, n, 0.7)
        if kind == "continuous":  # skewed, as losses are
            old, new = old + rng.exponential(1, n), new + rng.exponential(1, n)
        verdict = first(old, new).verdict
        promoted += verdict == "pass"
        refused += verdict == "fail"
    assert promoted <= 200 * ALPHA
    assert refused <= 200 * ALPHA


def test_a_metric_of_all_rows_promotes_an_equal_challenger_as_seldom() -> None:
    rng, promoted = np.random.default_rng(5), 0
    asked = spec(metric="roc_auc", resamples=200)
    for _ in range(200):
        labels = rng.integers(0, 2, 80)
        signal = labels + rng.normal(0, 1, 80)
        sides = [judged(labels, signal + rng.normal(0, 0.7, 80)) for _ in range(2)]
        effect, found = decide(measured_rows(metric("roc_auc"), *sides), (), {}, asked)
        promoted += found[0].verdict == "pass"
        assert effect is not None
    assert promoted <= 200 * ALPHA


def test_a_better_one_passes_a_worse_one_fails_and_few_rows_decide_nothing() -> None:
    rng = np.random.default_rng(0)
    old, new = scores(rng, 800, 0.3, 0.6)
    assert first(old, new).verdict == "pass"
    assert first(new, old).verdict == "fail"
    few = first(old[:15], new[:15])
    assert (few.verdict, few.what) == ("inconclusive", "15 rows say too little, 20 are needed")
    same = first(old, old)
    assert same.verdict == "inconclusive"


def test_alike_in_every_row_is_no_gain() -> None:
    losses = np.random.default_rng(0).exponential(1, 100)
    found = first(losses, losses)
    assert (found.verdict, found.hint) == ("inconclusive", "both sides are alike in every row")
    assert first(losses, losses, claim="not_worse", margin=0.1).verdict == "pass"


def test_a_gain_that_is_too_small_is_refused() -> None:
    rng = np.random.default_rng(0)
    old = rng.normal(0, 1, 3000)
    new = old + 0.02 + rng.normal(0, 0.05, 3000)
    assert first(old, new).verdict == "pass"
    assert first(old, new, min_effect=0.1).verdict == "fail"
    assert first(old, new, min_effect=0.0201).verdict == "inconclusive"


def test_not_worse_by_more_than_the_margin() -> None:
    rng = np.random.default_rng(0)
    old = rng.normal(0, 1, 3000)
    worse = old - 0.05 + rng.normal(0, 0.05, 3000)
    assert first(old, worse, claim="not_worse", margin=0.1).verdict == "pass"
    assert first(old, worse, claim="not_worse", margin=0.02).verdict == "fail"
    assert first(old[:40], worse[:40], claim="not_worse", margin=0.05).verdict != "pass"


def test_a_slice_that_is_hurt_stops_a_challenger_that_is_better_overall() -> None:
    rng = np.random.default_rng(0)
    old, new = scores(rng, 2000, 0.2, 0.8)
    hurt = np.arange(2000) < 300
    old[hurt], new[hurt] = scores(rng, 300, 0.8, -1.0)
    slices = {"region = north": hurt, "region = south": ~hurt, "rare": np.arange(2000) < 5}
    main = measured_scores("accuracy", old, new)
    _, found = decide(main, (), slices, spec(margin=0.02))
    assert [(each.slice, each.verdict) for each in found] == [
        (None, "pass"),
        ("region = north", "fail"),
        ("region = south", "pass"),
        ("rare", "inconclusive"),
    ]
    _, skipped = decide(main, (), slices, spec(margin=0.02, few_rows="skip"))
    assert [each.slice for each in skipped] == [None, "region = north", "region = south"]


def test_many_slices_seldom_accuse_an_equal_challenger() -> None:
    rng, accused = np.random.default_rng(3), 0
    for _ in range(60):
        old, new = scores(rng, 600, 0.5)
        slices = {f"part {part}": np.arange(600) % 12 == part for part in range(12)}
        _, found = decide(measured_scores("accuracy", old, new), (), slices, spec(margin=0.1))
        accused += any(each.verdict == "fail" for each in found[1:])
    assert accused <= 60 * ALPHA + 5


def test_a_further_metric_guards() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1500)
    signal = labels + rng.normal(0, 1, 1500)
    old, new = judged(labels, signal), judged(labels, signal, threshold=1.5)  # more precise, finds less
    precision, recall = (measured_rows(metric(name), old, new) for name in ("precision", "recall"))
    _, found = decide(precision, [(recall, 0.05)], {}, spec(metric="precision"))
    assert [(each.check, each.verdict) for each in found] == [("effect:precision", "pass"), ("guard:recall", "fail")]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=20, max_size=80))
def test_exchanging_the_sides_turns_the_effect_around(pairs: list[tuple[bool, bool]]) -> None:
    old, new = (np.asarray(side, dtype=float) for side in zip(*pairs, strict=True))
    forth, back = first(old, new), first(new, old)
    assert forth.measured == pytest.approx(-back.measured)
    assert not (forth.verdict == "pass" and back.verdict == "pass")


def judged(labels: np.ndarray, signal: np.ndarray, threshold: float = 0.5) -> Judged:
    predicted = (signal >= threshold).astype(labels.dtype)
    return Judged("classification", labels, predicted, signal, (0, 1), 1, pa.table({"row": np.arange(len(labels))}))
