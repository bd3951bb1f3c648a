"""The fraud models, trained once a session, and chains that answer from the tests' few texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import fraud as payments
from tests.support.fraud import Fraud
from tests.support.registry_processes import CHAT, MODELS

from llmops.core.ids import digest
from llmops.registry import Candidate, CodeModel, Kind, Registry, Version
from llmops.registry.gates import Finding, Report, ValidationSpec, validate

Register = Callable[..., Version]


@pytest.fixture(scope="session")
def fraud(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Fraud:
    return payments.make(tmp_path_factory.mktemp("fraud"), empty_mlflow)


@pytest.fixture
def fraud_registry(fraud: Fraud) -> Iterator[Registry]:
    with Registry(fraud.state) as opened:
        yield opened


@pytest.fixture(scope="session")
def full_spec(fraud: Fraud) -> ValidationSpec:
    """Every check that a model can be put through."""
    return ValidationSpec.model_validate(
        {
            "documentation": {"tags": ["owner", "intended_use"]},
            "data": {"table": str(fraud.rows), "label": "fraud", "filter": "hour >= 1"},
            "slices": ["region", "amount > 300", "amount > 700"],
            "metrics": [
                {"metric": "roc_auc", "min": 0.75, "slice_min": 0.6},
                {"metric": "recall", "min": 0.99},
                {"metric": "tests.support.gate_plugins:mean_score", "max": 0.9},
            ],
            "latency": {"row_p95_ms": 60_000, "batch_p50_ms": 0.001, "rows": 20, "batches": 20, "batch_rows": 100},
            "size_mb": 10,
            "peak_memory_mb": 4000,
            "checks": ["tests.support.gate_plugins:amount_matters", "tests.support.gate_plugins:breaks"],
            "resamples": 200,
        }
    )


@pytest.fixture(scope="session")
def full_report(fraud: Fraud, full_spec: ValidationSpec) -> Report:
    with Registry(fraud.state) as registry:
        return validate(fraud.good, full_spec, registry)


@pytest.fixture
def register(registry: Registry) -> Register:
    """Register a model or chain of `tests/registry/models` by its file's name."""

    def registered(file: str, kind: Kind = Kind.MODEL, **config: Any) -> Version:
        code = CodeModel(MODELS / f"{file}.py", config or {"none": 1})
        made = Candidate(kind, CHAT, code, digest=digest([file, config]), description="a test's")
        return registry.register(made, crown_first=False)

    return registered


def found(report: Report, check: str, slice_: str | None = None) -> Finding:
    """The one finding of a check."""
    (one,) = [each for each in report.findings if (each.check, each.slice) == (check, slice_)]
    return one
