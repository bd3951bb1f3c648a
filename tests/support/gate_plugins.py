"""Checks, scorers and baselines as a user writes them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from llmops.registry.gates import Checking, Finding
from llmops.registry.gates.judged import Judged


def mean_score(judged: Judged) -> float:
    assert judged.scores is not None
    return float(judged.scores.mean())


def amount_matters(checking: Checking) -> Finding:
    """Doubling the amount must not lower the predicted risk: asks the model in its process."""
    assert checking.heldout is not None
    assert checking.predict is not None
    rows = checking.heldout.features.slice(0, 50)
    place = rows.column_names.index("amount")
    doubled = rows.set_column(place, "amount", pa.array([2 * value for value in rows.column("amount").to_pylist()]))
    before, after = checking.predict(rows).columns[-1], checking.predict(doubled).columns[-1]
    lower = sum(b < a for a, b in zip(before, after, strict=True))
    return Finding("amount", "fail" if lower else "pass", "a larger amount is a larger risk", measured=lower)


def breaks(_: Checking) -> Finding:
    raise ValueError("no such thing")


def always_answers(question: str) -> str:
    return f"about {question}"


def by_amount(table: Any) -> list[int]:
    return [int(amount > 150) for amount in table.column("amount").to_pylist()]
