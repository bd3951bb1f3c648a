from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from llmops.finetune.classic.metrics import average_precision, by_slice, measured, roc_auc

ROWS = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])), min_size=2, max_size=40)


@settings(deadline=None)
@given(ROWS)
def test_they_are_scikit_learns(rows: list[tuple[bool, float]]) -> None:
    truth, probability = (np.array(values, float) for values in zip(*rows, strict=True))

    if 0 < truth.sum() < len(truth):
        assert roc_auc(truth, probability) == pytest.approx(sklearn_metrics.roc_auc_score(truth, probability))
    else:
        assert math.isnan(roc_auc(truth, probability))
    if truth.sum():
        assert average_precision(truth, probability) == pytest.approx(
            sklearn_metrics.average_precision_score(truth, probability)
        )
    else:
        assert math.isnan(average_precision(truth, probability))
    found = measured(truth, probability, 0.5)
    flagged = probability >= 0.5
    if truth.sum() + flagged.sum():
        assert found["f1"] == pytest.approx(sklearn_metrics.f1_score(truth, flagged))
    assert found["brier"] == pytest.approx(sklearn_metrics.brier_score_loss(truth, probability))


def test_slices_are_their_rows() -> None:
    truth, probability = np.array([1.0, 0, 0, 1]), np.array([0.9, 0.2, 0.8, 0.1])

    found = by_slice(np.array(["a", "a", "b", "b"]), truth, probability, 0.5)

    assert found["a"]["recall"] == 1
    assert found["b"]["recall"] == 0
    assert found["b"]["average_precision"] == 0.5
