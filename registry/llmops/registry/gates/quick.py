"""Metrics as plain numpy, for resampling: the same figures as scikit-learn's without its checks of every argument.

Takes an array (n, 3): label, prediction (0 and 1, or numbers) and score. Gives NaN where a metric is not defined.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LABEL, PREDICTED, SCORE = 0, 1, 2


def precision(rows: Floats) -> float:
    return _ratio((rows[:, LABEL] * rows[:, PREDICTED]).sum(), rows[:, PREDICTED].sum())


def recall(rows: Floats) -> float:
    positives = rows[:, LABEL].sum()
    return float((rows[:, LABEL] * rows[:, PREDICTED]).sum() / positives) if positives else float("nan")


def f1(rows: Floats) -> float:
    hits = (rows[:, LABEL] * rows[:, PREDICTED]).sum()
    return _ratio(2 * hits, rows[:, LABEL].sum() + rows[:, PREDICTED].sum())


def balanced_accuracy(rows: Floats) -> float:
    negative = np.column_stack([1 - rows[:, LABEL], 1 - rows[:, PREDICTED]])
    return (recall(rows) + recall(negative)) / 2


def roc_auc(rows: Floats) -> float:
    """Area under the ROC curve as the share of pairs in order; ties count half."""
    positives = int(rows[:, LABEL].sum())
    negatives = len(rows) - positives
    if not positives or not negatives:
        return float("nan")
    order = np.argsort(rows[:, SCORE], kind="stable")
    scores, labels = rows[order, SCORE], rows[order, LABEL]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    ends = np.r_[starts[1:], len(scores)]
    ranks = np.repeat((starts + 1 + ends) / 2, ends - starts)
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def pr_auc(rows: Floats) -> float:
    """Average precision, steps not interpolated; rows of equal score come in together."""
    positives = rows[:, LABEL].sum()
    if not positives:
        return float("nan")
    order = np.argsort(-rows[:, SCORE], kind="stable")
    scores, hits = rows[order, SCORE], np.cumsum(rows[order, LABEL])
    ends = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])
    recalled = hits[ends] / positives
    return float((np.diff(np.r_[0.0, recalled]) * hits[ends] / (ends + 1)).sum())


def rmse(rows: Floats) -> float:
    return float(np.sqrt(((rows[:, LABEL] - rows[:, PREDICTED]) ** 2).mean()))


def _ratio(part: float, whole: float) -> float:
    """0 where there is nothing to divide by, as scikit-learn's `zero_division=0`."""
    return float(part / whole) if whole else 0.0
