"""The registered fraud model as MLflow sees it: features looked up or given, computed, and weighed by the trees.

Run by `mlflow.pyfunc.load_model`. What it answers is decided by the artefact's own files: the trees, the declaration of
the features and the file of their functions. Nothing in it is a pickle.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import mlflow
import orjson
import pandas as pd
import pyarrow as pa
from mlflow.pyfunc import PythonModel

from llmops.core.features import FeatureSet, OnlineStore, open_online
from llmops.core.state import StateConfig
from llmops.finetune.classic.classifier import Classifier


class FraudModel(PythonModel):  # type: ignore[misc]
    """`predict(table) -> table`: a row needs its request columns; features that it lacks are looked up by key."""

    def load_context(self, context: Any) -> None:
        files = {name: Path(path) for name, path in context.artifacts.items()}
        shape = orjson.loads(files["shape"].read_bytes())
        self._classifier = Classifier.load(files["trees"].read_bytes(), shape)
        self._features = FeatureSet.from_json(shape["features"], files["functions"])
        self._catalog = str(context.model_config["catalog"])
        self._state = StateConfig(**context.model_config["state"])
        self._online: OnlineStore | None = None
        self._lock = threading.Lock()

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """`fraud_probability` and `is_fraud`, a row a row."""
        request = _arrow(pd.DataFrame(model_input))
        found = self._classifier.probabilities(self._features.resolve(request, self._opened(request), self._catalog))
        return pd.DataFrame({"fraud_probability": found, "is_fraud": found >= self._classifier.threshold})

    def _opened(self, request: pa.Table) -> OnlineStore | None:
        """The online store, opened by the first request that needs it: a model that is given all needs none."""
        looked_up = (column.name for lookup in self._features.lookups for column in lookup.columns)
        if set(looked_up) <= set(request.column_names):
            return None
        with self._lock:
            if self._online is None:
                self._online = open_online(self._state)
        return self._online


def _arrow(frame: pd.DataFrame) -> pa.Table:
    """The frame's columns; pyarrow's own way drops the zone of times in between, of which pandas warns."""
    columns = {}
    for name, column in frame.items():
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            moments = pa.array(column.dt.tz_convert(None).to_numpy(), from_pandas=True)
            columns[str(name)] = moments.cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
        else:
            columns[str(name)] = pa.array(column, from_pandas=True)
    return pa.table(columns)


mlflow.models.set_model(FraudModel())
