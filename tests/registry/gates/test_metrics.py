"""Metrics against scikit-learn, intervals by simulation, and what becomes of any output that a model may give."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.core.errors import UserError
from llmops.registry.evidence import Data
from llmops.registry.gates import quick
from llmops.registry.gates.heldout import HeldOut
from llmops.registry.gates.judged import Judged, Output, judge, task_of
from llmops.registry.gates.metrics import interval, metric
from llmops.registry.gates.spec import DataConfig, ValidationSpec
from llmops.registry.gates.thresholds import calibration, confusion, in_words

CONFIG = DataConfig(table="x", label="label")
NOTHING = Data(table="x", version="1", rows=0, digest="0" * 64)


def heldout(labels: list[Any]) -> HeldOut:
    return HeldOut(pa.table({"x": list(range(len(labels))), "label": labels}), NOTHING, "label")


def binary(labels: Any, scores: Any) -> Judged:
    return judge(Output((list(map(float, scores)),)), heldout([int(label) for label in labels]), CONFIG)


rows = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])), min_size=1, max_size=60
)


@settings(deadline=None)  # the first example imports scikit-learn
@given(rows)
def test_quick_metrics_are_scikit_learns(given_rows: list[tuple[bool, bool, float]]) -> None:
    from sklearn import metrics

    coded = np.asarray(given_rows, dtype=np.float64)
    label, predicted, score = coded.T
    for name in ("precision", "recall", "f1"):
        if name == "recall" and not label.any():
            assert math.isnan(quick.recall(coded))
            continue
        theirs = getattr(metrics, f"{name}_score")(label, predicted, zero_division=0)
        assert getattr(quick, name)(coded) == pytest.approx(theirs)
    if 0 < label.sum() < len(label):
        assert quick.balanced_accuracy(coded) == pytest.approx(metrics.balanced_accuracy_score(label, predicted))
        assert quick.roc_auc(coded) == pytest.approx(metrics.roc_auc_score(label, score))
        assert quick.pr_auc(coded) == pytest.approx(metrics.average_precision_score(label, score))
    else:
        assert math.isnan(quick.roc_auc(coded))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=40))
def test_metrics_of_numbers_are_scikit_learns(pairs: list[tuple[float, float]]) -> None:
    from sklearn import metrics

    right, predicted = zip(*pairs, strict=True)
    judged = judge(Output((list(predicted),)), heldout(list(right)), CONFIG.model_copy(update={"task": "regression"}))
    for name, theirs in [
        ("rmse", metrics.root_mean_squared_error),
        ("mae", metrics.mean_absolute_error),
        ("mse", metrics.mean_squared_error),
        ("median_ae", metrics.median_absolute_error),
    ]:
        assert metric(name).of(judged) == pytest.approx(theirs(right, predicted))


def test_log_loss_and_brier_are_scikit_learns() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 200), rng.random(200)
    judged = binary(labels, scores)
    assert metric("log_loss").of(judged) == pytest.approx(metrics.log_loss(labels, scores))
    assert metric("brier").of(judged) == pytest.approx(metrics.brier_score_loss(labels, scores))
    assert metric("accuracy").of(judged) == pytest.approx(((scores >= 0.5) == labels).mean())


def test_several_classes_by_their_probabilities() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(0)
    labels, scores = rng.choice(["a", "b", "c"], 150), rng.dirichlet([1, 1, 1], 150)
    judged = judge(Output(tuple(column.tolist() for column in scores.T)), heldout(labels.tolist()), CONFIG)
    assert judged.predicted.tolist() == np.asarray(["a", "b", "c"])[scores.argmax(axis=1)].tolist()
    assert metric("log_loss").of(judged) == pytest.approx(metrics.log_loss(labels, scores))
    assert metric("roc_auc").of(judged) == pytest.approx(metrics.roc_auc_score(labels, scores, multi_class="ovr"))
    assert metric("f1").of(judged) == pytest.approx(metrics.f1_score(labels, judged.predicted, average="macro"))
    assert metric("f1_macro").of(judged) == metric("f1").of(judged)
    assert sum(map(sum, confusion(judged)["counts"])) == 150


@pytest.mark.parametrize("name", ["accuracy", "recall", "roc_auc", "log_loss"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(name: str) -> None:
    """Scores are the true probabilities, so the truth is what a huge sample gives."""
    rng = np.random.default_rng(1)

    def sample(n: int) -> Judged:
        scores = rng.beta(1, 2, n)
        return binary(rng.random(n) < scores, scores)

    truth = metric(name).of(sample(200_000))
    held = 0
    for seed in range(100):
        found = interval(metric(name), sample(200), alpha=0.1, resamples=200, seed=seed)
        assert found is not None
        held += found[0] <= truth <= found[1]
    assert held >= 80  # 90 expected, standard deviation 3


def test_an_undefined_figure_is_nan_without_a_warning() -> None:
    config = CONFIG.model_copy(update={"positive": 1})
    judged = judge(Output(([0.1, 0.2, 0.9],)), heldout([0, 0, 0]), config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("roc_auc", "recall", "pr_auc"):
            assert math.isnan(metric(name).of(judged))
            assert interval(metric(name), judged, alpha=0.05, resamples=100, seed=0) is None
        assert math.isnan(metric("r2").of(judge(Output(([1.0],)), heldout([0.5]), CONFIG)))


@pytest.mark.parametrize(
    ("labels", "output", "config", "predicted"),
    [
        ([0, 1, 1], Output(([0, 1, 0],)), {}, [0, 1, 0]),
        ([0, 1, 1], Output(([0.0, 1.0, 0.0],)), {}, [0, 1, 0]),  # floats that are labels
        ([False, True, True], Output(([0, 1, 0],)), {}, [False, True, False]),
        (["no", "yes", "no"], Output((["no", "no", "yes"],)), {}, ["no", "no", "yes"]),
        (["no", "yes", "no"], Output(([0.9, 0.2, 0.4],)), {}, ["yes", "no", "no"]),  # scores
        (["no", "yes", "no"], Output(([0.9, 0.2, 0.4],)), {"positive": "no"}, ["no", "yes", "yes"]),
        (
            [0, 1, 0],
            Output(
                ([0.3, 0.6, 0.5], [0.7, 0.4, 0.5]),
            ),
            {},
            [1, 0, 1],
        ),  # one column a class
        ([0, 1, 0], Output(([5, 6, 7], [1, 1, 0]), ("id", "said")), {"prediction": "said"}, [1, 1, 0]),
        ([0, 1, 0], Output(([5, 6, 7], [0.9, 0.1, 0.2]), ("id", "p")), {"score": "p", "threshold": 0.95}, [0, 0, 0]),
    ],
)
def test_outputs_are_read_as_predictions(
    labels: list[Any], output: Output, config: dict[str, Any], predicted: list[Any]
) -> None:
    judged = judge(output, heldout(labels), CONFIG.model_copy(update=config))
    assert judged.predicted.tolist() == predicted


@pytest.mark.parametrize(
    ("output", "config", "words"),
    [
        (Output(([1],)), {}, "3 rows went in and 1 came out"),
        (Output(([1, 0, 1],) * 3), {}, "3 columns for 2 labels"),
        (Output((["a", "b", "c"],)), {}, "predicts 'a', the labels are like '0'"),
        (Output(([1, 0, 1],)), {"score": "p"}, "no column `p`"),
        (Output(([1, 0, 1],)), {"positive": 7}, "positive label 7"),
        (Output((["x", "y", "z"],)), {"task": "regression"}, "no number"),
    ],
)
def test_outputs_that_are_no_predictions_say_so(output: Output, config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        judge(output, heldout([0, 1, 0]), CONFIG.model_copy(update=config))


def test_rows_of_one_label_have_no_positive_one() -> None:
    with pytest.raises(UserError, match="every row has the label 0"):
        judge(Output(([0, 0],)), heldout([0, 0]), CONFIG)


def test_the_task_follows_from_the_label() -> None:
    assert task_of(heldout([0, 1, 1]), CONFIG) == "classification"
    assert task_of(heldout(["a", "b"]), CONFIG) == "classification"
    assert task_of(heldout([0.5, 1.0]), CONFIG) == "regression"
    assert task_of(heldout(list(range(60))), CONFIG) == "regression"
    assert task_of(heldout(list(range(60))), CONFIG.model_copy(update={"task": "classification"})) == "classification"


def test_calibration_counts_every_row_once() -> None:
    rng = np.random.default_rng(0)
    scores = np.r_[rng.random(98), 0.0, 1.0]
    bins = calibration(binary(rng.random(100) < scores, scores))
    assert sum(row["n"] for row in bins) == 100
    assert all(0 <= row["share"] <= 1 for row in bins)
    assert in_words(0.5, None) == ">= 0.5"
    assert in_words(None, 2.0) == "<= 2"
    assert ValidationSpec().alpha == 0.05
