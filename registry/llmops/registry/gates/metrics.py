"""Figures of merit by name: what each needs, which way is better, and what it is for some rows.

Means and binary metrics are plain numpy, for they are resampled by the thousand; scikit-learn computes the rest, and is
imported when the first of those is asked for. Knows no limit and no slice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import NotFoundError, UserError, did_you_mean
from llmops.registry.gates import quick
from llmops.registry.gates.judged import Judged
from llmops.registry.gates.plugins import SCORERS, find
from llmops.registry.stats.binomial import wilson

Floats = NDArray[np.float64]
_DRAWN_AT_MOST = 20_000_000
"""Rows drawn by all resamples of one interval together: about two seconds."""
_TINY = 1e-15


@dataclass(frozen=True)
class Metric:
    """One figure of merit.

    Args:
        better: which way is better.
        value: of some rows; NaN where it is not defined for them.
        rows: the same row by row, where the metric is the mean of such scores.
        quick: the same as `value`, of `coded` rows.
        needs: `scores` where labels do not suffice.
    """

    name: str
    better: Literal["high", "low"]
    value: Callable[[Judged], float]
    rows: Callable[[Judged], Floats] | None = None
    quick: Callable[[Floats], float] | None = None
    needs: Literal["labels", "scores", "numbers"] = "labels"

    def is_quick_for(self, judged: Judged) -> bool:
        """Whether `quick` gives its value for these predictions."""
        return self.quick is not None and (judged.binary or judged.task == "regression")

    def fits(self, judged: Judged) -> bool:
        """Whether these predictions are what it needs."""
        if self.name in _KNOWN and (self.needs == "numbers") != (judged.task == "regression"):
            return False
        return self.needs != "scores" or judged.scores is not None

    def of(self, judged: Judged) -> float:
        """The metric's value.

        Raises:
            UserError: these predictions are not what it needs.
        """
        if self.name in _KNOWN and (self.needs == "numbers") != (judged.task == "regression"):
            raise UserError(f"`{self.name}` is no metric of {judged.task}")
        if self.needs == "scores" and judged.scores is None:
            raise UserError(
                f"`{self.name}` needs probabilities; the version gives labels only",
                hint='save the model with pyfunc_predict_fn="predict_proba", or name the column: data.score',
            )
        if not len(judged):
            return float("nan")
        if self.is_quick_for(judged):
            assert self.quick is not None
            return self.quick(coded(judged))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # undefined figures are told by NaN
            try:
                return float(self.value(judged))
            except Exception as error:
                if self.name in _KNOWN and isinstance(error, ValueError):
                    return float("nan")  # scikit-learn's word for a figure that these rows do not define
                raise UserError(f"the scorer `{self.name}` failed: {type(error).__name__}: {error}") from error


def metric(name: str, *, better: Literal["high", "low"] = "high") -> Metric:
    """The metric of a name; a scorer of one's own takes a `Judged` and gives a number.

    Args:
        better: of a scorer; a metric known here knows it itself.

    Raises:
        NotFoundError: names the nearest.
    """
    if name in _KNOWN:
        return _KNOWN[name]
    try:
        return Metric(name, better, find(name, SCORERS))
    except NotFoundError as error:
        hint = did_you_mean(name, _KNOWN) or f"there are {', '.join(sorted(_KNOWN))}, and scorers of your own"
        raise NotFoundError(f"no metric `{name}`", hint=hint) from error


def interval(metric: Metric, judged: Judged, *, alpha: float, resamples: int, seed: int) -> tuple[float, float] | None:
    """The metric's confidence interval: exact in form for a share, by bootstrap else; None where it has none."""
    n = len(judged)
    if metric.rows is not None and not np.isnan(metric.of(judged)):
        each = metric.rows(judged)
        if np.isin(each, (0.0, 1.0)).all():
            return wilson(int(each.sum()), n, alpha)
    draws = min(resamples, max(100, _DRAWN_AT_MOST // max(n, 1)))
    rng = np.random.default_rng(seed)
    if metric.is_quick_for(judged):
        assert metric.quick is not None
        rows = coded(judged)
        drawn = [metric.quick(rows[rng.integers(n, size=n)]) for _ in range(draws)]
    elif metric.rows is not None:
        each = metric.rows(judged)
        drawn = [float(each[rng.integers(n, size=n)].mean()) for _ in range(draws)]
    else:
        drawn = [metric.of(judged.only(rng.integers(n, size=n))) for _ in range(min(draws, 200))]
    defined = np.asarray([value for value in drawn if not np.isnan(value)])
    if len(defined) < len(drawn) / 2:
        return None
    low, high = np.quantile(defined, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def coded(judged: Judged) -> Floats:
    """Label, prediction and score as numbers, (n, 3), for `quick`; of a binary classification as 0 and 1."""
    if judged.task == "regression":
        return np.column_stack([judged.labels, judged.predicted, judged.predicted])
    predicted = (judged.predicted == judged.positive).astype(np.float64)
    scores = predicted if judged.scores is None else judged.scores
    return np.column_stack([(judged.labels == judged.positive).astype(np.float64), predicted, scores])


def _sklearn(name: str, **options: Any) -> Callable[[Judged], float]:
    """A metric of labels: binary about the positive one, else the mean over classes."""

    def value(judged: Judged) -> float:
        from sklearn import metrics

        settings = dict(options)
        if "average" in settings:
            binary = settings["average"] == "binary" and judged.binary
            settings |= {"average": "binary", "pos_label": judged.positive} if binary else {"average": "macro"}
            settings["zero_division"] = 0
        return float(getattr(metrics, name)(judged.labels, judged.predicted, **settings))

    return value


def _by_scores(name: str) -> Callable[[Judged], float]:
    """A metric of probabilities: of the positive class, or of all classes, one against the rest."""

    def value(judged: Judged) -> float:
        from sklearn import metrics

        assert judged.scores is not None
        if judged.scores.ndim == 1:
            return float(getattr(metrics, name)(judged.labels == judged.positive, judged.scores))
        if name == "roc_auc_score":
            return float(metrics.roc_auc_score(judged.labels, judged.scores, multi_class="ovr", labels=judged.classes))
        one_hot = np.asarray(judged.labels)[:, None] == np.asarray(judged.classes)[None, :]
        return float(getattr(metrics, name)(one_hot, judged.scores))

    return value


def _right(judged: Judged) -> Floats:
    return np.asarray(judged.labels == judged.predicted, dtype=np.float64)


def _log_losses(judged: Judged) -> Floats:
    return -np.log(np.clip(_probability_of_truth(judged), _TINY, 1.0))


def _briers(judged: Judged) -> Floats:
    assert judged.scores is not None
    if judged.scores.ndim == 1:
        return np.asarray((judged.scores - (judged.labels == judged.positive)) ** 2, dtype=np.float64)
    one_hot = np.asarray(judged.labels)[:, None] == np.asarray(judged.classes)[None, :]
    return np.asarray(((judged.scores - one_hot) ** 2).sum(axis=1), dtype=np.float64)


def _probability_of_truth(judged: Judged) -> Floats:
    assert judged.scores is not None
    if judged.scores.ndim == 1:
        return np.asarray(np.where(judged.labels == judged.positive, judged.scores, 1 - judged.scores))
    places = np.searchsorted(np.asarray(judged.classes), judged.labels)
    return np.asarray(judged.scores[np.arange(len(judged)), places])


def _absolute(judged: Judged) -> Floats:
    return np.asarray(np.abs(judged.labels - judged.predicted), dtype=np.float64)


def _squared(judged: Judged) -> Floats:
    return np.asarray((judged.labels - judged.predicted) ** 2, dtype=np.float64)


def _mean(rows: Callable[[Judged], Floats]) -> Callable[[Judged], float]:
    return lambda judged: float(rows(judged).mean())


_KNOWN = {
    each.name: each
    for each in (
        Metric("accuracy", "high", _mean(_right), rows=_right),
        Metric("balanced_accuracy", "high", _sklearn("balanced_accuracy_score"), quick=quick.balanced_accuracy),
        Metric("precision", "high", _sklearn("precision_score", average="binary"), quick=quick.precision),
        Metric("recall", "high", _sklearn("recall_score", average="binary"), quick=quick.recall),
        Metric("f1", "high", _sklearn("f1_score", average="binary"), quick=quick.f1),
        Metric("precision_macro", "high", _sklearn("precision_score", average="macro")),
        Metric("recall_macro", "high", _sklearn("recall_score", average="macro")),
        Metric("f1_macro", "high", _sklearn("f1_score", average="macro")),
        Metric("mcc", "high", _sklearn("matthews_corrcoef")),
        Metric("roc_auc", "high", _by_scores("roc_auc_score"), quick=quick.roc_auc, needs="scores"),
        Metric("pr_auc", "high", _by_scores("average_precision_score"), quick=quick.pr_auc, needs="scores"),
        Metric("log_loss", "low", _mean(_log_losses), rows=_log_losses, needs="scores"),
        Metric("brier", "low", _mean(_briers), rows=_briers, needs="scores"),
        Metric("rmse", "low", _sklearn("root_mean_squared_error"), quick=quick.rmse, needs="numbers"),
        Metric("mse", "low", _mean(_squared), rows=_squared, needs="numbers"),
        Metric("mae", "low", _mean(_absolute), rows=_absolute, needs="numbers"),
        Metric("median_ae", "low", _sklearn("median_absolute_error"), needs="numbers"),
        Metric("mape", "low", _sklearn("mean_absolute_percentage_error"), needs="numbers"),
        Metric("r2", "high", _sklearn("r2_score"), needs="numbers"),
    )
}
