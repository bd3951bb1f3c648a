"""How good probabilities of a rare event are: ranking, calibration, and the decisions of a threshold.

Knows arrays of truth (0, 1) and probability. Average precision and ROC area are the exact step sums, ties shared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_LEAST = 1e-12


def measured(truth: Floats, probability: Floats, threshold: float) -> dict[str, float]:
    """Every figure of one set of rows; NaN where it is not defined (no positive row, none predicted)."""
    flagged = probability >= threshold
    hits, frauds, alarms = float((flagged & (truth > 0)).sum()), float(truth.sum()), float(flagged.sum())
    precision = hits / alarms if alarms else float("nan")
    recall = hits / frauds if frauds else float("nan")
    clipped = np.clip(probability, _LEAST, 1 - _LEAST)
    return {
        "average_precision": average_precision(truth, probability),
        "roc_auc": roc_auc(truth, probability),
        "log_loss": float(-np.mean(truth * np.log(clipped) + (1 - truth) * np.log(1 - clipped))),
        "brier": float(np.mean((probability - truth) ** 2)),
        "precision": precision,
        "recall": recall,
        "f1": 2 * hits / (alarms + frauds) if alarms + frauds else float("nan"),
        "flagged_share": float(flagged.mean()),
        "fraud_share": float(truth.mean()),
        "rows": float(len(truth)),
    }


def average_precision(truth: Floats, probability: Floats) -> float:
    """Precision at each threshold, weighted by the recall it gains."""
    if not truth.sum():
        return float("nan")
    order = np.argsort(-probability, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(probability[order]) != 0, True))
    hits = np.cumsum(truth[order])[ends]
    gained = np.diff(np.concatenate([[0.0], hits])) / truth.sum()
    return float(np.sum(gained * hits / (ends + 1)))


def roc_auc(truth: Floats, probability: Floats) -> float:
    """The probability that a positive row ranks above a negative one, ties counting half."""
    positives, negatives = truth.sum(), (1 - truth).sum()
    if not positives or not negatives:
        return float("nan")
    _, places, counts = np.unique(probability, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return float((ranks[truth > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def by_slice(
    values: npt.NDArray[Any], truth: Floats, probability: Floats, threshold: float
) -> dict[str, dict[str, float]]:
    """The same figures for the rows of each value."""
    slices = {str(value): values == value for value in sorted(set(values.tolist()))}
    return {name: measured(truth[rows], probability[rows], threshold) for name, rows in slices.items()}
