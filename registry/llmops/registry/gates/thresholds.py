"""Metrics held against their limits, over all rows and slice by slice; the same figures are what the card plots.

Knows limits, intervals and few rows. Where predictions come from, it does not know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmops.core.errors import UserError
from llmops.registry.gates.heldout import Mask
from llmops.registry.gates.judged import Judged
from llmops.registry.gates.metrics import Metric, interval, metric
from llmops.registry.gates.report import Finding
from llmops.registry.gates.spec import GateSpec, Threshold, ValidationSpec
from llmops.registry.stats.conclusion import Verdict

_BINS = 10
_SHOWN_CLASSES = 12
_CARD = {
    "classification": ("accuracy", "balanced_accuracy", "f1", "roc_auc", "pr_auc", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}


def measure_of(threshold: Threshold) -> Metric:
    """The metric a limit is about; a scorer of one's own is better where its limit leaves room."""
    bounded_above = threshold.min is None and threshold.slice_min is None
    return metric(threshold.metric, better="low" if bounded_above else "high")


def check_metrics(judged: Judged, slices: Mapping[str, Mask], spec: ValidationSpec) -> list[Finding]:
    """One finding for each limit: of all rows, and of every slice that has one."""
    found = []
    for threshold in spec.metrics:
        measure = measure_of(threshold)
        if threshold.min is not None or threshold.max is not None:
            found.append(_check(measure, judged, (threshold.min, threshold.max), None, spec))
        if threshold.slice_min is None and threshold.slice_max is None:
            continue
        limits = (threshold.slice_min, threshold.slice_max)
        for name, rows in slices.items():
            if int(rows.sum()) >= spec.min_rows or spec.few_rows == "inconclusive":
                found.append(_check(measure, judged.only(rows), limits, name, spec))
    return found


def figures(judged: Judged, slices: Mapping[str, Mask], spec: ValidationSpec) -> dict[str, Any]:
    """What the card plots: every metric asked for and the usual ones, by slice; confusion and calibration."""
    names = dict.fromkeys([*(threshold.metric for threshold in spec.metrics), *_CARD[judged.task]])
    rows: dict[str | None, Mask] = {None: np.ones(len(judged), dtype=np.bool_)}
    rows.update(slices)
    measured = [
        figure(measure, judged.only(mask), name, spec)
        for measure in map(metric, names)
        if measure.fits(judged)
        for name, mask in rows.items()
    ]
    found: dict[str, Any] = {"metrics": measured}
    if judged.task == "classification" and len(judged.classes) <= _SHOWN_CLASSES:
        found["confusion"] = confusion(judged)
    if judged.scores is not None and judged.scores.ndim == 1:
        found["calibration"] = calibration(judged)
    return found


def confusion(judged: Judged) -> dict[str, Any]:
    """How often each label (row) was predicted as each label (column)."""
    counts = [
        [int(((judged.labels == label) & (judged.predicted == predicted)).sum()) for predicted in judged.classes]
        for label in judged.classes
    ]
    return {"classes": [str(label) for label in judged.classes], "counts": counts}


def calibration(judged: Judged) -> list[dict[str, float]]:
    """By tenths of the score: its mean, the share of positives, and how many rows there are."""
    assert judged.scores is not None
    bins = np.clip((judged.scores * _BINS).astype(int), 0, _BINS - 1)
    hits = judged.labels == judged.positive
    return [
        {"score": float(judged.scores[here].mean()), "share": float(hits[here].mean()), "n": int(here.sum())}
        for here in (bins == place for place in range(_BINS))
        if here.any()
    ]


def held_against(value: float, low: float | None, high: float | None) -> bool:
    """Whether a value lies within its limits."""
    return (low is None or value >= low) and (high is None or value <= high)


def in_words(low: float | None, high: float | None) -> str:
    parts = (None if low is None else f">= {low:g}", None if high is None else f"<= {high:g}")
    return " and ".join(part for part in parts if part is not None)


def figure(measure: Metric, judged: Judged, name: str | None, spec: GateSpec) -> dict[str, Any]:
    """One metric of one slice with its interval, as the card plots it."""
    value = measure.of(judged)
    ends = None
    if not math.isnan(value):
        ends = interval(measure, judged, alpha=spec.alpha, resamples=spec.resamples, seed=spec.seed)
    return {
        "metric": measure.name,
        "better": measure.better,
        "slice": name,
        "n": len(judged),
        "value": None if math.isnan(value) else value,
        "interval": None if ends is None else list(ends),
    }


def _check(
    measure: Metric, judged: Judged, limits: tuple[float | None, float | None], name: str | None, spec: ValidationSpec
) -> Finding:
    (low, high), n = limits, len(judged)
    told: dict[str, Any] = {"check": f"metric:{measure.name}", "slice": name, "n": n, "limit": in_words(low, high)}
    try:
        value = measure.of(judged)
    except UserError as error:
        return Finding(**told, verdict="fail", what=error.what, hint=error.hint)
    if math.isnan(value):
        return Finding(**told, verdict="inconclusive", what=f"{measure.name} is not defined for these {n:,} rows")
    ends = interval(measure, judged, alpha=spec.alpha, resamples=spec.resamples, seed=spec.seed)
    told |= {"measured": value, "interval": ends}
    if n < spec.min_rows:
        return Finding(
            **told,
            verdict="inconclusive",
            what=f"{measure.name} of {n:,} rows says too little, {spec.min_rows:,} are needed",
            hint="hold more rows out, or set few_rows: skip",
        )
    verdict = _verdict(value, ends, low, high, by_interval=spec.judge_by == "interval")
    what = {"pass": "lies within its limit", "fail": "is beyond its limit", "inconclusive": "may lie on either side"}
    return Finding(**told, verdict=verdict, what=f"{measure.name} {what[verdict]}")


def _verdict(
    value: float, ends: Sequence[float] | None, low: float | None, high: float | None, *, by_interval: bool
) -> Verdict:
    if not by_interval:
        return "pass" if held_against(value, low, high) else "fail"
    if ends is None:
        return "inconclusive"
    if all(held_against(end, low, high) for end in ends):
        return "pass"
    below = low is not None and ends[1] < low
    above = high is not None and ends[0] > high
    return "fail" if below or above else "inconclusive"


def check_scores(each: Mapping[str, Sequence[float]], limits: Sequence[Threshold]) -> list[Finding]:
    """The mean of each scorer over its answers, held against its limits."""
    found = []
    for threshold in limits:
        scores = each[threshold.metric]
        n, low, high = len(scores), threshold.min, threshold.max
        mean = float(np.mean(scores)) if n else float("nan")
        fine = n > 0 and held_against(mean, low, high)
        found.append(
            Finding(
                check=f"score:{threshold.metric}",
                verdict="inconclusive" if n == 0 else "pass" if fine else "fail",
                what=f"the mean {threshold.metric} of {n} answers"
                + (" lies within its limit" if fine else " is beyond its limit" if n else " is not defined"),
                measured=mean if n else None,
                limit=in_words(low, high),
                n=n,
            )
        )
    return found
