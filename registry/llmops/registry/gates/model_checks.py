"""What a classic model is checked for: it loads, takes what it says it takes, predicts, repeats itself, and is quick.

Knows findings. The process in which the model runs is `trial`'s, limits of metrics are `thresholds`'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llmops.core.errors import LlmopsError
from llmops.registry.gates import signature
from llmops.registry.gates.heldout import HeldOut
from llmops.registry.gates.judged import Output
from llmops.registry.gates.report import Finding
from llmops.registry.gates.spec import DataConfig, LatencyConfig, ValidationSpec
from llmops.registry.gates.trial import Loaded, Timings, Trial, TrialError

_REPEATED_ROWS = 200


def failed(check: str, error: LlmopsError, *, hint: str | None = None) -> Finding:
    """A version's misdeed, or a check that could not be made, as a finding."""
    return Finding(check, "fail", error.what, measured=error.error_code, hint=hint or error.hint)


def check_signature(trial: Trial, loaded: Loaded, spec: ValidationSpec) -> Iterator[Finding]:
    """That the model says what it takes and gives, and predicts its own example."""
    if spec.signature:
        hint = "log it with signature=mlflow.models.infer_signature(rows, predictions)"
        yield Finding(
            "signature",
            "pass" if loaded.signature else "fail",
            "the model has a signature" if loaded.signature else "the model has no signature",
            hint=None if loaded.signature else hint,
        )
    if loaded.example:
        try:
            yield Finding("example", "pass", "the model predicts its input example", measured=trial.example())
        except TrialError as error:
            yield failed("example", error)
    elif spec.example:
        yield Finding("example", "fail", "the model has no input example", hint="log it with input_example=rows.head()")


def check_schema(trial: Trial, heldout: HeldOut) -> Finding:
    """That the rows have what the signature asks for."""
    columns = signature.inputs(trial.described)
    if columns is None:
        return Finding("schema", "pass", "the model names no columns: there is nothing to compare")
    drift = signature.drift(columns, heldout.table.schema)
    drift += [] if drift else signature.missing_values(columns, heldout.table)
    if any(column.name == heldout.label for column in columns):
        drift.append(f"the model takes the label, `{heldout.label}`, which it should predict")
    if not drift:
        return Finding("schema", "pass", f"the rows have the signature's {len(columns)} columns")
    return Finding(
        "schema",
        "fail",
        f"the rows do not fit the signature: {drift[0]}",
        measured=drift,
        hint="hold rows out as the model was trained on, or train it again on what there is now",
    )


def check_outputs(output: Output, n: int) -> Finding:
    """That there is a prediction for every row."""
    missing = int(output.missing().sum())
    if not missing:
        return Finding("outputs", "pass", "every row has a prediction", measured=0, limit="<= 0", n=n)
    return Finding(
        "outputs",
        "fail",
        f"{missing:,} of {n:,} predictions are missing, NaN or infinite",
        measured=missing,
        limit="<= 0",
        n=n,
        hint="does the model meet empty cells or new categories that it never saw?",
    )


def check_determinism(trial: Trial, table: Any, config: DataConfig, output: Output) -> Finding:
    """That the same rows, asked again, get the same predictions."""
    rows = min(_REPEATED_ROWS, table.num_rows)
    again = trial.predict(table.slice(0, rows), min(rows, config.batch_rows))
    first = Output(tuple(column[:rows] for column in output.columns), output.names)
    differing = [place for place in range(rows) if not _same_row(first, again, place)]
    if not differing:
        return Finding("determinism", "pass", f"{rows} rows asked twice give the same", measured=0, n=rows)
    return Finding(
        "determinism",
        "fail",
        f"{len(differing)} of {rows} rows asked twice give something else",
        measured=len(differing),
        limit="<= 0",
        n=rows,
        hint="does the model draw random numbers when it predicts, or remember what it was asked?",
    )


def check_latency(timings: Timings, limits: LatencyConfig) -> Iterator[Finding]:
    """Medians and 95th percentiles of warm predictions, held against their limits."""
    for what, seconds in (("row", timings.row_s), ("batch", timings.batch_s)):
        for name, share in (("p50", 0.5), ("p95", 0.95)):
            limit = getattr(limits, f"{what}_{name}_ms")
            measured = float(np.quantile(seconds, share)) * 1000
            if limit is None:
                continue
            rows = "a row" if what == "row" else f"{timings.batch_rows:,} rows"
            yield at_most(
                f"latency:{what}_{name}_ms", measured, limit, f"{name} of predicting {rows}, in ms", len(seconds)
            )


def at_most(check: str, measured: float, limit: float, what: str, n: int | None = None) -> Finding:
    """A figure that must not be greater than its limit."""
    fine = measured <= limit
    return Finding(
        check,
        "pass" if fine else "fail",
        f"{what}: {measured:.4g}" + ("" if fine else f", {limit:g} at most"),
        measured=measured,
        limit=f"<= {limit:g}",
        n=n,
    )


def latency_figures(timings: Timings) -> dict[str, float]:
    """Percentiles in milliseconds, for facts and card."""
    pairs: Sequence[tuple[str, tuple[float, ...]]] = (("row", timings.row_s), ("batch", timings.batch_s))
    return {
        f"{what}_{name}_ms": float(np.quantile(seconds, share)) * 1000
        for what, seconds in pairs
        for name, share in (("p50", 0.5), ("p95", 0.95))
    }


def _same_row(one: Output, other: Output, place: int) -> bool:
    return len(one.columns) == len(other.columns) and all(
        a[place] == b[place] for a, b in zip(one.columns, other.columns, strict=True)
    )
