"""Training as the workflow does it: tracked, registered with lineage, explained, found again; and what it serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tests.support.transactions import context

from llmops.core.errors import ConfigError, UserError
from llmops.core.features import FeatureStore, open_online, publish
from llmops.core.lake import Lake
from llmops.core.state import StateConfig
from llmops.finetune.classic import tasks
from llmops.finetune.classic.features import CUSTOMER_ACTIVITY, FEATURES
from llmops.finetune.classic.train import LABEL
from llmops.registry import Registry
from llmops.registry.mlflow_adapter import MlflowStore

Trained = tuple[StateConfig, dict[str, Any]]


def holdout(state: StateConfig, said: dict[str, Any]) -> pa.Table:
    return Lake(state).dataset(said["holdout"])[0].to_table()


def test_it_learns_what_there_was_to_learn(trained: Trained) -> None:
    _, said = trained

    assert said["version"] == "dev.fraud.fraud_clf/1"
    assert said["metrics"]["roc_auc"] > 0.9
    assert said["metrics"]["average_precision"] > 0.4


def test_the_first_version_is_not_crowned(trained: Trained) -> None:
    with Registry(trained[0]) as registry:
        assert registry.alias("dev.fraud.fraud_clf", "champion") is None


def test_its_lineage_names_tables_features_run_and_code(trained: Trained) -> None:
    state, said = trained
    with Registry(state) as registry:
        nodes = {found.node for found in registry.lineage(said["version"])}

    lake = Lake(state)
    for table in ("transactions", "labels"):
        assert f"dataset:dev.fraud.{table}@{lake.version(f'dev.fraud.{table}')}" in nodes
    assert f"feature:dev.fraud.merchant_risk@{lake.version('dev.fraud.merchant_risk')}" in nodes
    assert f"run:{said['run_id']}" in nodes
    assert any(node.startswith("code:on_demand@") for node in nodes)


def test_the_run_tells_everything(trained: Trained) -> None:
    state, said = trained
    with MlflowStore(state, "dev").client() as (_, client):
        run = client.get_run(said["run_id"])
        version = client.get_model_version("dev.fraud.fraud_clf", "1")
        files = {one.path for one in client.list_artifacts(said["run_id"], "shap")}

    assert run.info.status == "FINISHED"
    assert run.data.params["months"] == "4"
    assert run.data.metrics["average_precision"] == said["metrics"]["average_precision"]
    assert "channel.online.recall" in run.data.metrics
    assert run.data.tags["llmops.version"] == said["version"]
    assert len(run.data.tags["data.training"]) == 64
    assert {one.dataset.name for one in run.inputs.dataset_inputs} >= {
        "dev.fraud.labels",
        "training_set",
        said["holdout"],
    }
    assert version.run_id == said["run_id"]
    assert {"shap/summary.svg", "shap/values.json", "shap/local-1.svg"} <= files


def test_the_same_training_is_the_same_version(fresh: StateConfig) -> None:
    again = tasks.train(context(fresh, "train", run_id="another"))
    other = tasks.train(context(fresh, "train", run_id="third", seed=8))

    assert again["version"] == "dev.fraud.fraud_clf/1"
    assert other["version"] == "dev.fraud.fraud_clf/2"
    assert (again["holdout"], again["holdout_version"]) == (other["holdout"], other["holdout_version"])


def test_worse_settings_are_worse_and_newer_months_better(fresh: StateConfig) -> None:
    first = tasks.train(context(fresh, "train"))
    worse = tasks.train(
        context(fresh, "train", months=2, leave_out=["amount_ratio", "abroad", "hour", "device_age_days"])
    )
    tasks.prepare(context(fresh, "data", today="2026-01"))
    better = tasks.train(context(fresh, "train", today="2026-01"))

    assert worse["holdout"] == first["holdout"]
    assert worse["metrics"]["average_precision"] < 0.7 * first["metrics"]["average_precision"]
    with Registry(fresh) as registry:
        models = [registry.load_model(said["version"]) for said in (first, better)]
    rows = holdout(fresh, better)
    old, new = (caught(model, rows) for model in models)
    assert new > old + 0.2, "the version of August never saw the new kind of fraud"


def caught(model: Any, rows: pa.Table) -> float:
    """The share of the frauds among the riskiest 3% of the rows."""
    found = predicted(model, rows.drop_columns([LABEL]).to_pandas())["fraud_probability"].to_numpy()
    fraud = rows[LABEL].to_numpy(zero_copy_only=False)
    top = np.argsort(-found, kind="stable")[: len(found) * 3 // 100]
    return float(fraud[top].sum() / fraud.sum())


def predicted(model: Any, rows: pd.DataFrame) -> pd.DataFrame:
    found: pd.DataFrame = model.predict(rows)
    return found


def test_keys_alone_are_served_like_the_training(trained: Trained) -> None:
    """No skew: of the newest rows online, look-ups give what the point-in-time join gives at a later moment."""
    state, said = trained
    lake = Lake(state)
    request = holdout(state, said).slice(0, 200).select([column.name for column in FEATURES.request])
    after = pa.scalar(pd.Timestamp("2025-08-02", tz="UTC"), request.schema.field("event_time").type)
    place = request.column_names.index("event_time")
    request = request.set_column(place, "event_time", pa.repeat(after, len(request)))
    joined = FEATURES.training_set(request, FeatureStore(lake, "dev")).table
    given = joined.drop_columns([one.output.name for one in FEATURES.on_demand])
    with Registry(state) as registry:
        model = registry.load_model(said["version"])

    by_keys = predicted(model, request.to_pandas())
    with_all = predicted(model, given.to_pandas())

    assert by_keys.equals(with_all)
    assert by_keys["fraud_probability"].nunique() > 50
    assert joined["count_30d"].null_count < len(joined)


def test_a_request_may_be_json(trained: Trained) -> None:
    state, said = trained
    with Registry(state) as registry:
        model = registry.load_model(said["version"])
    row = {
        "customer_id": "c00001", "merchant_id": "m0001", "event_time": "2025-08-02T03:00:00Z", "amount": 900.0,
        "category": "electronics", "channel": "online", "country": "PL", "device_age_days": 1.0,
    }  # fmt: skip

    risky, normal = (predicted(model, pd.DataFrame([one]))["fraud_probability"][0] for one in (row, {**row, **CALM}))

    assert risky > 10 * normal
    stranger = predicted(model, pd.DataFrame([{**row, "customer_id": "nobody"}]))
    assert stranger.columns.tolist() == ["fraud_probability", "is_fraud"]


CALM = {
    "event_time": "2025-08-02T14:00:00Z",
    "amount": 20.0,
    "category": "grocery",
    "country": "DE",
    "device_age_days": 400.0,
}


def test_what_is_new_in_the_lake_is_served_after_publishing(fresh: StateConfig, trained: Trained) -> None:
    store, online = FeatureStore(Lake(fresh), "dev"), open_online(fresh)
    with Registry(fresh) as registry:
        model = registry.load_model(trained[1]["version"])
    row = pd.DataFrame([{
        "customer_id": "c00001", "merchant_id": "m0001", "event_time": "2025-08-03T12:00:00Z", "amount": 60.0,
        "category": "games", "channel": "online", "country": "DE", "device_age_days": 100.0,
    }])  # fmt: skip
    before = predicted(model, row)
    store.write(CUSTOMER_ACTIVITY, [{
        "customer_id": "c00001", "event_time": "2025-08-03T00:00:00Z", "home": "FR",
        "last_seen": "2025-08-02T23:59:59Z",
        "count_1h": 9, "count_7d": 9, "count_30d": 9, "mean_30d": 2.0, "max_30d": 3.0, "merchants_30d": 9,
    }])  # fmt: skip

    assert predicted(model, row).equals(before)
    publish(store, CUSTOMER_ACTIVITY, online)
    assert not predicted(model, row).equals(before)
    online.close()


def test_the_artefact_holds_no_pickle(trained: Trained) -> None:
    state, said = trained
    with Registry(state) as registry:
        folder = registry.files(said["version"])

    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"trees.ubj", "shape.json", "functions.py", "model.py", "MLmodel"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]
    example = json.loads((folder / "input_example.json").read_text())
    assert {column.name for column in FEATURES.request} <= set(example["columns"])


def test_an_exploration_is_tracked(fresh: StateConfig) -> None:
    said = tasks.explore(context(fresh, "explore"))
    with MlflowStore(fresh, "dev").client() as (mlflow, client):
        run = client.get_run(said["run_id"])
        path = Path(mlflow.artifacts.download_artifacts(run_id=said["run_id"], artifact_path="explore"))

    report = json.loads((path / "report.json").read_text())
    figures = {name: one["average_precision"] for name, one in report["baselines"].items()}
    assert figures["majority"] < figures["rule"] < figures["logistic_regression"]
    assert run.data.metrics["logistic_regression.roc_auc"] > 0.9
    assert report["columns"]["mean_30d"]["missing"] > 0
    assert report["correlations"]["with_label"]["amount_ratio"] > 0.05
    assert report["drift"]["months"][0] == min(report["drift"]["months"])
    assert all(values[0] == 0 for values in report["drift"]["psi"].values())
    page = (path / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "<script" not in page


def test_a_training_that_cannot_be_is_told_and_its_run_failed(fresh: StateConfig) -> None:
    with pytest.raises(ConfigError, match="`leaf_size`"):
        tasks.train(context(fresh, "train", leaf_size=3))
    with pytest.raises(UserError, match="no labelled transactions"):
        tasks.train(context(fresh, "train", run_id="early", today="2025-02"))
    with MlflowStore(fresh, "dev").client() as (_, client):
        experiment = client.get_experiment_by_name("fraud.fraud_clf")
        found = client.search_runs([experiment.experiment_id], "tags.`llmops.key` = 'early/train'")
    assert [run.info.status for run in found] == ["FAILED"]
