"""Predictions beside what is right: the one shape that every metric, slice and comparison takes.

Knows how a version's output (labels, probabilities, numbers, named columns) becomes a prediction a row. What good
predictions are, it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import UserError
from llmops.registry.gates.heldout import HeldOut
from llmops.registry.gates.spec import DataConfig

Array = NDArray[Any]
Task = Literal["classification", "regression"]
_MOST_CLASSES = 50


@dataclass(frozen=True)
class Output:
    """What a version said of some rows: columns of JSON values, with names where it named them."""

    columns: tuple[list[Any], ...]
    names: tuple[str, ...] | None = None

    @property
    def rows(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def without(self, rows: Array) -> Output:
        """The same without some rows (a mask)."""
        kept = np.flatnonzero(~rows)
        return replace(self, columns=tuple([column[row] for row in kept] for column in self.columns))

    def missing(self) -> Array:
        """A mask of the rows in which any value is null; NaN and infinities arrive as null, too."""
        found = np.zeros(self.rows, dtype=np.bool_)
        for column in self.columns:
            found |= np.asarray([value is None for value in column], dtype=np.bool_)
        return found


@dataclass(frozen=True)
class Judged:
    """One side's predictions of the held-out rows.

    Args:
        labels: what is right. For classification labels and predicted are texts, numbers or truth values of one type.
        predicted: the label, or the number, that was predicted.
        scores: the probability of the positive class (n,), or of each of `classes` (n, classes); None: not told.
        classes: the labels there are, sorted; empty for regression.
        positive: the label that binary metrics are about.
        table: the rows, for scorers of one's own.
    """

    task: Task
    labels: Array
    predicted: Array
    scores: Array | None
    classes: tuple[Any, ...]
    positive: Any
    table: Any

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def binary(self) -> bool:
        return self.task == "classification" and len(self.classes) <= 2

    def only(self, rows: Array) -> Judged:
        """The same for some rows (a mask or indices); the classes stay those of all rows."""
        scores = None if self.scores is None else self.scores[rows]
        indices = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return replace(
            self,
            labels=self.labels[rows],
            predicted=self.predicted[rows],
            scores=scores,
            table=self.table.take(indices),
        )


def task_of(heldout: HeldOut, config: DataConfig) -> Task:
    """What is predicted: a number where the label has fractions or many values, else a class."""
    if config.task != "auto":
        return config.task
    labels = heldout.labels
    if labels.dtype.kind == "f" and not np.equal(np.mod(labels, 1), 0).all():
        return "regression"
    return "regression" if labels.dtype.kind in "if" and len(np.unique(labels)) > _MOST_CLASSES else "classification"


def judge(output: Output, heldout: HeldOut, config: DataConfig) -> Judged:
    """Read a version's output as predictions of the label.

    Raises:
        UserError: it has another number of rows, or a shape that cannot be read as predictions.
    """
    task = task_of(heldout, config)
    if output.rows != len(heldout.labels):
        raise UserError(f"{len(heldout.labels):,} rows went in and {output.rows:,} came out")
    if task == "regression":
        numbers = _numbers(_chosen(output, config.prediction, "prediction", alone=True))
        return Judged(task, heldout.labels.astype(np.float64), numbers, None, (), None, heldout.table)
    return _classified(output, heldout, config)


def _classified(output: Output, heldout: HeldOut, config: DataConfig) -> Judged:
    labels = heldout.labels
    classes = _classes(labels, config)
    scores = _scores(output, config, classes)
    if scores is None or config.prediction is not None:
        predicted = _as_labels(_chosen(output, config.prediction, "prediction", alone=True), labels)
        classes = sorted({*classes, *predicted.tolist()})
    else:
        predicted = _by_score(scores, classes, config)
    positive = classes[-1] if config.positive is None else config.positive
    return Judged("classification", labels, predicted, scores, tuple(classes), positive, heldout.table)


def _classes(labels: Array, config: DataConfig) -> list[Any]:
    """The labels there are; where all rows have one, the other has to be told."""
    known: list[Any] = np.unique(labels).tolist()
    if config.positive is None:
        if len(known) == 1:
            raise UserError(
                f"every row has the label {known[0]!r}", hint="hold out rows of both kinds, or name data.positive"
            )
        return known
    if config.positive not in known and (len(known) > 1 or type(config.positive) is not type(known[0])):
        raise UserError(
            f"no row has the positive label {config.positive!r}",
            hint=f"the labels are {', '.join(map(repr, known[:10]))}",
        )
    return sorted({*known, config.positive})


def _scores(output: Output, config: DataConfig, classes: Sequence[Any]) -> Array | None:
    """Probabilities, where the output holds any: a named column, several columns, or one of fractions."""
    if config.score is not None:
        return _numbers(_chosen(output, config.score, "score", alone=False))
    if config.prediction is not None:
        return None
    if len(output.columns) > 1:
        if len(output.columns) != len(classes):
            raise UserError(
                f"the version gives {len(output.columns)} columns for {len(classes)} labels",
                hint="say which is which: data.prediction, data.score",
            )
        each = np.column_stack([_numbers(column) for column in output.columns])
        return np.asarray(each[:, _place(classes, config)]) if len(classes) == 2 else each
    (column,) = output.columns
    fractions = len(classes) <= 2 and all(isinstance(value, float) for value in column)
    return _numbers(column) if fractions and not set(column) <= set(classes) else None


def _place(classes: Sequence[Any], config: DataConfig) -> int:
    """Which of two columns is the positive label's: they come in the labels' order."""
    return 1 if config.positive is None else list(classes).index(config.positive)


def _by_score(scores: Array, classes: Sequence[Any], config: DataConfig) -> Array:
    if scores.ndim == 2:
        return np.asarray(np.asarray(classes)[scores.argmax(axis=1)])
    place = _place(classes, config)
    positive, negative = classes[place], classes[1 - place]
    return np.asarray([positive if score >= config.threshold else negative for score in scores])


def _chosen(output: Output, name: str | None, what: str, *, alone: bool) -> list[Any]:
    if name is not None:
        if output.names is None or name not in output.names:
            raise UserError(
                f"the version's output has no column `{name}`",
                where=f"data.{what}",
                hint=f"it has {', '.join(output.names)}" if output.names else "its columns have no names",
            )
        return output.columns[output.names.index(name)]
    if alone and len(output.columns) != 1:
        raise UserError(f"the version gives {len(output.columns)} columns", hint=f"say which one to take: data.{what}")
    return output.columns[0]


def _numbers(values: Sequence[Any]) -> Array:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"the version's output is no number: {str(values[0])[:60]!r}") from None


def _as_labels(values: Sequence[Any], labels: Array) -> Array:
    """Predictions in the labels' own type: a model of whole numbers may say 1.0, and one of truth values 1."""
    kind = labels.dtype.kind
    try:
        if kind in "bif" and not isinstance(values[0], str):
            found = np.asarray(values, dtype=np.float64)
            if kind == "f" or not np.equal(np.mod(found, 1), 0).all():
                return found
            return found.astype(np.bool_) if kind == "b" else found.astype(labels.dtype)
    except (TypeError, ValueError):
        pass
    if kind in "US" and all(isinstance(value, str) for value in values):
        return np.asarray(values)
    raise UserError(
        f"the version predicts {str(values[0])[:60]!r}, the labels are like {str(labels[0])[:60]!r}",
        hint="is data.label the column it was trained for?",
    )
