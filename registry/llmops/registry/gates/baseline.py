"""Heuristics that a first version has to beat: what anybody could do without a model.

What a heuristic needs to know (the most frequent label, the mean) it takes from the held-out labels themselves. That
flatters it, so whoever beats it has beaten the real one. Knows labels and columns; runs no version.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from llmops.core.errors import UserError
from llmops.core.expressions import evaluate
from llmops.registry.gates.heldout import HeldOut
from llmops.registry.gates.judged import Judged, Output, judge, task_of
from llmops.registry.gates.plugins import BASELINES, find
from llmops.registry.gates.questions import Question
from llmops.registry.gates.spec import Baseline, DataConfig
from llmops.registry.gates.trial import Answer

_FOR = {"majority": "classification", "mean": "regression", "median": "regression"}


def predicted(baseline: Baseline, heldout: HeldOut, config: DataConfig) -> Judged:
    """The heuristic's predictions of the held-out rows.

    Raises:
        UserError: it does not fit the label or the columns.
    """
    plain = config.model_copy(update={"prediction": None, "score": None})
    task = task_of(heldout, config)
    if _FOR.get(baseline.kind, task) != task:
        raise UserError(f"the baseline `{baseline.kind}` is none for {task}", where="baseline.kind")
    values = _values(baseline, heldout, config)
    if baseline.kind == "rule" and task == "classification":
        values = _as_labels(values, heldout, config)
    judged = judge(Output((values,)), heldout, plain)
    if judged.binary and judged.scores is None:
        return replace(judged, scores=_certainty(baseline, judged))
    if judged.task == "classification" and judged.scores is None and baseline.kind == "majority":
        shares = np.asarray([(judged.labels == label).mean() for label in judged.classes])
        return replace(judged, scores=np.tile(shares, (len(judged), 1)))
    return judged


def answered(baseline: Baseline, question: Question) -> Answer:
    """The heuristic's answer to a question.

    Raises:
        UserError: this heuristic answers no questions.
    """
    match baseline.kind:
        case "refuse":
            return Answer("", refused=True)
        case "constant":
            return Answer(str(baseline.value), refused=False)
        case "function":
            return Answer(str(find(str(baseline.function), BASELINES)(question.question)), refused=False)
    raise UserError(
        f"the baseline `{baseline.kind}` answers no questions", hint="take `refuse`, `constant` or `function`"
    )


def _values(baseline: Baseline, heldout: HeldOut, config: DataConfig) -> list[Any]:
    n, labels = heldout.table.num_rows, heldout.labels
    match baseline.kind:
        case "majority":
            known, counts = np.unique(labels, return_counts=True)
            return [known[counts.argmax()].item()] * n
        case "mean":
            return [float(labels.mean())] * n
        case "median":
            return [float(np.median(labels))] * n
        case "constant":
            return [baseline.value] * n
        case "rule":
            (values,) = evaluate(heldout.features, [str(baseline.expression)])
            return list(values.to_pylist())
        case "function":
            return list(find(str(baseline.function), BASELINES)(heldout.features))
    raise UserError(f"the baseline `{baseline.kind}` is one for chains", where="baseline.kind")


def _as_labels(values: list[Any], heldout: HeldOut, config: DataConfig) -> list[Any]:
    """A condition says the positive label where it holds, the other one where it does not or is not known."""
    if not all(value is None or isinstance(value, bool) for value in values):
        return values
    known = np.unique(heldout.labels).tolist()
    if len(known) != 2:
        raise UserError(
            f"a condition tells two labels apart, there are {len(known)}", hint="write a CASE that gives the label"
        )
    positive = known[-1] if config.positive is None else config.positive
    negative = next(label for label in known if label != positive)
    return [positive if value else negative for value in values]


def _certainty(baseline: Baseline, judged: Judged) -> Any:
    """The share of positives for every row, from whoever says the same of all; else the prediction itself."""
    if baseline.kind == "majority":
        return np.full(len(judged), (judged.labels == judged.positive).mean())
    return (judged.predicted == judged.positive).astype(np.float64)
