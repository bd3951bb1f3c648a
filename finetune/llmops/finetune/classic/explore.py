"""The exploratory report: what the data look like before anybody models them, and what simple models reach already.

Figures of each column, what is missing, what goes together, how each month differs from the first, and four baselines.
The report is data (JSON) and one HTML page without scripts. This module is the one here that knows scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from llmops.finetune.classic.classifier import Encoding, truths
from llmops.finetune.classic.metrics import measured
from llmops.finetune.classic.plots import bars, lines

Floats = npt.NDArray[np.float64]
_BINS = 10
_FLOOR = 1e-4
RULE = "amount_ratio > 3 and abroad = 1"
"""The simple rule that a model has to beat; `rule` computes it."""


def explored(train: pa.Table, holdout: pa.Table, inputs: Sequence[str], label: str = "is_fraud") -> dict[str, Any]:
    """The whole report as JSON values."""
    encoding = Encoding.of(train, inputs)
    matrix = encoding.matrix(train)
    months = pc.strftime(train["event_time"], format="%Y-%m").to_numpy(zero_copy_only=False)
    return {
        "rows": {"train": len(train), "holdout": len(holdout)},
        "label": {
            "fraud_share": float(truths(train, label).mean()),
            "by_month": {m: float(truths(train, label)[months == m].mean()) for m in sorted(set(months.tolist()))},
        },
        "columns": {name: _column(train[name], matrix[:, place]) for place, name in enumerate(inputs)},
        "correlations": _correlations(matrix, inputs, truths(train, label)),
        "drift": _drift(matrix, inputs, months),
        "baselines": baselines(train, holdout, inputs, label),
    }


def baselines(train: pa.Table, holdout: pa.Table, inputs: Sequence[str], label: str) -> dict[str, dict[str, float]]:
    """What simple models reach on the held-out days: nobody cheats, one rule, the amount, and logistic regression."""
    truth = truths(holdout, label)
    share = truths(train, label).mean()
    found = {
        "majority": (np.full(len(holdout), share), 0.5),
        "rule": (rule(holdout), 0.5),
        "amount": (_ranked(holdout["amount"].to_numpy()), 1 - share),
        "logistic_regression": (_logistic(train, holdout, inputs, label), 0.5),
    }
    return {name: measured(truth, probability, line) for name, (probability, line) in found.items()}


def rule(table: pa.Table) -> Floats:
    """1 where `RULE` holds: three times the usual amount, abroad."""
    ratio, abroad = (table[name].to_numpy() for name in ("amount_ratio", "abroad"))
    with np.errstate(invalid="ignore"):
        found: Floats = ((ratio > 3) & (abroad == 1)).astype(float)
    return found


def files(report: Mapping[str, Any]) -> dict[str, str]:
    """The report as files: `explore/report.json` and `explore/report.html`."""
    months = list(report["drift"]["months"])
    worst = sorted(report["drift"]["psi"].items(), key=lambda one: -max(one[1]))[:3]
    weights = report["correlations"]["with_label"]
    plots = [
        lines(
            "Share of fraud by month",
            list(report["label"]["by_month"]),
            {"fraud": list(report["label"]["by_month"].values())},
        ),
        lines("Drift from the first month (PSI)", months, dict(worst)),
        bars("Correlation with fraud", dict(sorted(weights.items(), key=lambda one: -abs(one[1]))), form="+.2f"),
        bars(
            "Average precision on the held-out days",
            {n: one["average_precision"] for n, one in report["baselines"].items()},
        ),
    ]
    page = _page(report, plots)
    return {
        "explore/report.json": orjson.dumps(report, option=orjson.OPT_INDENT_2).decode(),
        "explore/report.html": page,
    }


def _column(column: Any, numbers: Floats) -> dict[str, Any]:
    missing = column.null_count / max(1, len(column))
    if pa.types.is_string(column.type):
        counts = pc.value_counts(column).to_pylist()
        top = sorted(counts, key=lambda one: (-one["counts"], str(one["values"])))[:10]
        return {"missing": missing, "distinct": len(counts), "top": {str(one["values"]): one["counts"] for one in top}}
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return {"missing": missing, "distinct": 0}
    quantiles = np.quantile(known, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    names = ("min", "p5", "p25", "median", "p75", "p95", "max")
    spread = {"mean": float(known.mean()), "stddev": float(known.std()), "distinct": len(np.unique(known))}
    return {"missing": missing, **spread, **{n: float(q) for n, q in zip(names, quantiles, strict=True)}}


def _correlations(matrix: Floats, inputs: Sequence[str], truth: Floats) -> dict[str, Any]:
    """Of ranks (Spearman's), over the rows where both are known."""
    ranked = np.column_stack([_ranked(column) for column in [*matrix.T, truth]])
    size = len(inputs)
    pairs = {}
    for first in range(size):
        for second in range(first):
            value = _correlation(ranked[:, first], ranked[:, second])
            if abs(value) >= 0.7:
                pairs[f"{inputs[second]} ~ {inputs[first]}"] = value
    weights = {name: _correlation(ranked[:, place], ranked[:, size]) for place, name in enumerate(inputs)}
    return {"with_label": weights, "strong_pairs": pairs}


def _correlation(first: Floats, second: Floats) -> float:
    both = ~(np.isnan(first) | np.isnan(second))
    if both.sum() < 3 or first[both].std() == 0 or second[both].std() == 0:
        return 0.0
    return float(np.corrcoef(first[both], second[both])[0, 1])


def _ranked(values: Floats) -> Floats:
    """Each value's place among the others, 0 to 1, ties sharing; NaN stays."""
    known = ~np.isnan(values)
    ranks = np.full(len(values), np.nan)
    _, places, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    ranks[known] = ((np.cumsum(counts) - (counts + 1) / 2)[places]) / max(1, known.sum() - 1)
    return ranks


def _drift(matrix: Floats, inputs: Sequence[str], months: npt.NDArray[Any]) -> dict[str, Any]:
    """The population stability index of each month against the first, in the first one's deciles."""
    names = sorted(set(months.tolist()))
    found = {}
    for place, name in enumerate(inputs):
        column = matrix[:, place]
        first = column[months == names[0]]
        known = first[~np.isnan(first)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(known) else known
        shares = [_shares(column[months == month], edges) for month in names]
        found[name] = [float(np.sum((share - shares[0]) * np.log(share / shares[0]))) for share in shares]
    return {"months": names, "psi": found}


def _shares(values: Floats, edges: Any) -> Floats:
    """The share of rows in each bin; missing ones have a bin of their own."""
    places = np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values))
    counts = np.bincount(places, minlength=len(edges) + 2)
    shares: Floats = np.maximum(counts / max(1, len(values)), _FLOOR)
    return shares


def _logistic(train: pa.Table, holdout: pa.Table, inputs: Sequence[str], label: str) -> Floats:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import QuantileTransformer

    numbers = [name for name in inputs if not pa.types.is_string(train.schema.field(name).type)]
    encoding = Encoding.of(train, numbers)
    shape = QuantileTransformer(n_quantiles=100, output_distribution="normal", random_state=0)
    model = make_pipeline(SimpleImputer(add_indicator=True), shape, LogisticRegression(max_iter=500))
    model.fit(encoding.matrix(train), truths(train, label))
    found: Floats = model.predict_proba(encoding.matrix(holdout))[:, 1]
    return found


def _page(report: Mapping[str, Any], plots: Sequence[str]) -> str:
    heads = ("average_precision", "roc_auc", "log_loss", "precision", "recall")
    models = [[name, *(f"{one[head]:.3f}" for head in heads)] for name, one in report["baselines"].items()]
    columns = []
    for name, one in report["columns"].items():
        spread = [f"{one[key]:.3g}" if key in one else "" for key in ("mean", "stddev", "p5", "median", "p95")]
        columns.append([name, f"{one['missing']:.1%}", str(one["distinct"]), *spread])
    pairs = [[name, f"{value:+.2f}"] for name, value in report["correlations"]["strong_pairs"].items()]
    sizes = report["rows"]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Fraud: exploration</title>',
            "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:760px;margin:2rem auto;padding:0 1rem}"
            "table{border-collapse:collapse}td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #ddd}"
            "svg{max-width:100%;height:auto}</style>",
            f"<h1>Fraud: exploration</h1><p>{sizes['train']:,} rows to learn from, {sizes['holdout']:,} held out.</p>",
            "<h2>Baselines on the held-out days</h2>",
            _table(("model", *heads), models),
            *plots,
            "<h2>Columns</h2>",
            _table(("column", "missing", "distinct", "mean", "stddev", "p5", "median", "p95"), columns),
            "<h2>Columns that go together (Spearman)</h2>",
            _table(("pair", "correlation"), pairs),
            "</html>",
        ]
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(one)}</td>" for one in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
