"""Why a classifier says what it says: SHAP values of many rows in one picture, and of single rows in words and bars.

Knows the classifier's contributions; how they are computed is the classifier's matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from llmops.finetune.classic.classifier import Classifier
from llmops.finetune.classic.plots import bars, summary

_ROWS = 2000
_SHOWN = 10


def explanation(classifier: Classifier, table: pa.Table) -> dict[str, str]:
    """Files by name, with the rows that are weighed highest, lowest and nearest the threshold explained one by one.

    `shap/summary.svg`, `shap/importance.svg`, `shap/local-N.svg`, and `shap/values.json` with the figures behind them.
    """
    names = classifier.encoding.inputs
    rows = table.take(pa.array(np.linspace(0, len(table) - 1, min(_ROWS, len(table))).astype(int)))
    found = classifier.contributions(rows)
    weights = np.abs(found[:, :-1]).mean(axis=0)
    order = np.argsort(-weights, kind="stable")
    importance = {names[place]: float(weights[place]) for place in order}
    files = {
        "shap/summary.svg": summary("SHAP values", names, found[:, :-1], classifier.encoding.matrix(rows)),
        "shap/importance.svg": bars("Mean absolute SHAP value (log-odds)", importance),
    }
    local = []
    for number, place in enumerate(_told(classifier, rows), start=1):
        one = _local(classifier, rows.slice(place, 1), found[place])
        files[f"shap/local-{number}.svg"] = bars(
            f"Why {one['probability']:.1%}: {one['transaction_id']}", one["contributions"], form="+.2f"
        )
        local.append(one)
    values = {"base_log_odds": float(found[0, -1]), "importance": importance, "local": local, "rows": len(rows)}
    files["shap/values.json"] = orjson.dumps(values, option=orjson.OPT_INDENT_2).decode()
    return files


def _told(classifier: Classifier, rows: pa.Table) -> list[int]:
    probabilities = classifier.probabilities(rows)
    near = int(np.argmin(np.abs(probabilities - classifier.threshold)))
    return list(dict.fromkeys([int(np.argmax(probabilities)), near, int(np.argmin(probabilities))]))


def _local(classifier: Classifier, row: pa.Table, contributions: Any) -> dict[str, Any]:
    names = classifier.encoding.inputs
    order = np.argsort(-np.abs(contributions[:-1]), kind="stable")[:_SHOWN]
    (given,) = row.to_pylist()
    return {
        "transaction_id": str(given.get("transaction_id", "")),
        "probability": float(classifier.probabilities(row)[0]),
        "contributions": {
            f"{names[place]} = {_short(given[names[place]])}": float(contributions[place]) for place in order
        },
    }


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
