"""Boosted trees over a table: how its columns become numbers, how they are grown, asked, explained and kept.

This module is the one here that knows xgboost. Grown on one thread from one seed, so that the same rows give the same
bytes. A kept classifier is JSON and xgboost's own binary format: nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmops.core.errors import UserError
from llmops.finetune.classic.settings import Trees

Floats = npt.NDArray[np.float64]
_PATIENCE = 20


@dataclass(frozen=True)
class Encoding:
    """Which columns the trees see, in order, and the number that each word of a text column is."""

    inputs: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, table: pa.Table, inputs: Sequence[str]) -> Encoding:
        """Learn the words of a training table.

        Raises:
            UserError: an input is not among its columns.
        """
        for name in inputs:
            if name not in table.column_names:
                raise UserError(f"there is no input `{name}`", hint=f"there are {', '.join(table.column_names)}")
        texts = [name for name in inputs if pa.types.is_string(table.schema.field(name).type)]
        found = {
            name: sorted(word for word in pc.unique(table[name]).to_pylist() if word is not None) for name in texts
        }
        return cls(tuple(inputs), {name: tuple(words) for name, words in found.items()})

    def matrix(self, table: pa.Table) -> Floats:
        """One row a row, one column an input; what is missing, or a word that was never seen, is NaN."""
        columns = []
        for name in self.inputs:
            column = table[name]
            if name in self.words:
                column = pc.index_in(column, value_set=pa.array(self.words[name], column.type))
            columns.append(pc.cast(column, pa.float64(), safe=False).to_numpy())
        return np.column_stack(columns)


@dataclass(frozen=True)
class Classifier:
    """Grown trees with their encoding, and the probability from which a row counts as positive."""

    booster: Any
    encoding: Encoding
    threshold: float

    def probabilities(self, table: pa.Table) -> Floats:
        """The positive's probability of each row."""
        matrix = _matrix(self.encoding.matrix(table), self.encoding.inputs)
        found: Floats = self.booster.predict(matrix).astype(np.float64)
        return found

    def contributions(self, table: pa.Table) -> Floats:
        """SHAP values: what each input adds to a row's log-odds, and in the last column what all rows start from.

        Exact for trees, in polynomial time. Source: Lundberg et al., "Consistent Individualized Feature Attribution for
        Tree Ensembles", arXiv 1802.03888, algorithm 2, as xgboost computes it.
        """
        matrix = _matrix(self.encoding.matrix(table), self.encoding.inputs)
        found: Floats = self.booster.predict(matrix, pred_contribs=True).astype(np.float64)
        return found

    def kept(self) -> tuple[bytes, dict[str, Any]]:
        """The trees in xgboost's binary JSON, and all else as JSON values."""
        words = {name: list(words) for name, words in self.encoding.words.items()}
        shape = {"inputs": list(self.encoding.inputs), "words": words, "threshold": self.threshold}
        return bytes(self.booster.save_raw("ubj")), shape

    @classmethod
    def load(cls, trees: bytes, shape: Mapping[str, Any]) -> Classifier:
        """Read a kept one back."""
        import xgboost

        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(trees))
        words = {name: tuple(words) for name, words in shape["words"].items()}
        return cls(booster, Encoding(tuple(shape["inputs"]), words), float(shape["threshold"]))


def grow(
    table: pa.Table,
    label: str,
    inputs: Sequence[str],
    trees: Trees,
    *,
    seed: int,
    watch: Callable[[int, float], None] | None = None,
) -> Classifier:
    """Grow trees on a table that is ordered by time: its last fifth says when to stop, and where to draw the line.

    The line is where F1 is best on that fifth.

    Args:
        watch: told the average precision on the last fifth after each tree; whatever it raises ends the growing.

    Raises:
        UserError: there is no positive row in one of the two parts.
    """
    import xgboost

    encoding = Encoding.of(table, inputs)
    truth = truths(table, label)
    cut = len(table) * 4 // 5
    if not truth[:cut].any() or not truth[cut:].any():
        raise UserError("there are too few positive rows to learn from", hint="take more months, or a larger world")
    matrix = encoding.matrix(table)
    parts = [_matrix(matrix[:cut], encoding.inputs, truth[:cut]), _matrix(matrix[cut:], encoding.inputs, truth[cut:])]
    booster = xgboost.train(
        _parameters(trees, seed),
        parts[0],
        trees.rounds,
        evals=[(parts[1], "late")],
        early_stopping_rounds=_PATIENCE,
        verbose_eval=False,
        callbacks=[_watching(watch)] if watch else [],
    )
    grown = booster[: booster.best_iteration + 1]
    return Classifier(grown, encoding, _line(truth[cut:], grown.predict(parts[1])))


def truths(table: pa.Table, label: str) -> Floats:
    """The label as 0 and 1."""
    found: Floats = pc.cast(table[label], pa.float64()).to_numpy()
    return found


def _parameters(trees: Trees, seed: int) -> dict[str, Any]:
    return {
        "objective": "binary:logistic",
        "eval_metric": "aucpr",
        "tree_method": "hist",
        "nthread": 1,
        "seed": seed,
        "max_depth": trees.depth,
        "eta": trees.eta,
        "min_child_weight": trees.child_weight,
        "subsample": trees.subsample,
        "colsample_bytree": trees.columns,
        "reg_lambda": trees.l2,
    }


def _matrix(values: Floats, names: Sequence[str], truth: Floats | None = None) -> Any:
    import xgboost

    return xgboost.DMatrix(values, truth, feature_names=list(names), nthread=1)


def _watching(watch: Callable[[int, float], None]) -> Any:
    import xgboost

    class Watching(xgboost.callback.TrainingCallback):  # type: ignore[misc]
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            watch(epoch, float(evals_log["late"]["aucpr"][-1]))
            return False

    return Watching()


def _line(truth: Floats, probabilities: Floats) -> float:
    """The threshold of best F1: between the last row that counts as positive there and the next."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order].astype(np.float64)
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + truth.sum())
    f1[:-1][ranked[:-1] == ranked[1:]] = 0  # no line runs between equal probabilities
    best = int(np.argmax(f1))
    return float((ranked[best] + ranked[min(best + 1, len(ranked) - 1)]) / 2)
