"""Payments, and models that tell the fraudulent ones: made once a session, registered in a state of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.registry import Candidate, Kind, Registry, SavedModel, Version
from llmops.registry.mlflow_adapter import quiet_mlflow

NAME = Name.parse("dev.fraud.clf")
FEATURES = ("amount", "hour", "region")


@dataclass(frozen=True)
class Fraud:
    """A state with three versions: `good` (probabilities), `weak` (a third of its training labels wrong), `labels`."""

    state: StateConfig
    rows: Path
    good: Version
    weak: Version
    labels: Version


def payments(n: int, seed: int) -> pa.Table:
    """Rows whose fraud follows from amount and hour."""
    rng = np.random.default_rng(seed)
    amount, hour = rng.exponential(100, n), rng.integers(0, 24, n)
    odds = amount / 60 - 3.2 + 1.5 * (hour < 6)
    fraud = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    region = rng.choice(["north", "south"], n)
    return pa.table({"amount": amount, "hour": hour, "region": region, "fraud": fraud})


def make(folder: Path, mlflow_db: Path) -> Fraud:
    """Train, save and register; takes about three seconds."""
    state = StateConfig(dir=folder / "state")
    (state.root / "mlflow").mkdir(parents=True)
    (state.root / "mlflow" / "dev.db").write_bytes(mlflow_db.read_bytes())
    parquet.write_table(payments(2000, 1), folder / "heldout.parquet")
    train = payments(3000, 2)
    frame, right = train.select(FEATURES).to_pandas(), train.column("fraud").to_numpy()
    rng = np.random.default_rng(3)
    wrong = np.where(rng.random(len(right)) < 0.45, 1 - right, right)
    with Registry(state) as registry:

        def registered(which: str, labels: Any, method: str) -> Version:
            saved = save(folder / which, frame, labels, method)
            tags = {"owner": "risk team", "intended_use": "payments in shops"}
            candidate = Candidate(Kind.MODEL, NAME, SavedModel(str(saved)), description=f"{which} model", tags=tags)
            return registry.register(candidate, crown_first=False)

        good = registered("good", right, "predict_proba")
        return Fraud(
            state,
            folder / "heldout.parquet",
            good,
            registered("weak", wrong, "predict_proba"),
            registered("labels", right, "predict"),
        )


def save(folder: Path, frame: Any, labels: Any, method: str) -> Path:
    """A logistic regression as MLflow saves one, with signature and example."""
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = make_column_transformer(
        (StandardScaler(), ["amount", "hour"]), (OneHotEncoder(handle_unknown="ignore"), ["region"])
    )
    model = make_pipeline(columns, LogisticRegression()).fit(frame, labels)
    with quiet_mlflow() as mlflow:
        import mlflow.sklearn
        from mlflow.models import infer_signature

        mlflow.sklearn.save_model(
            model,
            str(folder),
            signature=infer_signature(frame, getattr(model, method)(frame)),
            input_example=frame.head(3),
            pyfunc_predict_fn=method,
            pip_requirements=["scikit-learn"],
            serialization_format="cloudpickle",
        )
    return folder
