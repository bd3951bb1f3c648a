from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.support.waiting import eventually

from llmops.core.ids import digest
from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.core.tables import Column
from llmops.registry import Candidate, CodeModel, Kind, Registry
from llmops.registry.mlflow_adapter import MlflowStore
from llmops.registry.records import Signature
from llmops.registry.tracking import Dataset, running

ASSET = Name("dev", "fraud", "clf")
MODELS = Path(__file__).parent / "models"


def runs(state: StateConfig) -> dict[str, str]:
    """Status of every run, by id."""
    with MlflowStore(state, "dev").client() as (_, client):
        experiment = client.get_experiment_by_name("fraud.clf")
        return {run.info.run_id: run.info.status for run in client.search_runs([experiment.experiment_id])}


def test_a_run_tells_what_was_tried_and_what_came_of_it(state: StateConfig) -> None:
    with running(state, ASSET, key="a/train", tags={"kind": "test"}) as run:
        run.log(params={"depth": 5, "long": "x" * 900}, metrics={"f1": 0.5, "none": float("nan")}, tags={"why": "so"})
        run.datasets([Dataset("dev.fraud.labels", "a" * 64, version=3)])
        run.files({"plots/one.svg": "<svg/>"})
        assert runs(state) == {run.run_id: "RUNNING"}

    with MlflowStore(state, "dev").client() as (_, client):
        found = client.get_run(run.run_id)
        files = [one.path for one in client.list_artifacts(run.run_id, "plots")]
    assert found.info.status == "FINISHED"
    assert found.data.params == {"depth": "5", "long": "x" * 500}
    assert found.data.metrics == {"f1": 0.5}
    assert (found.data.tags["why"], found.data.tags["kind"]) == ("so", "test")
    (read,) = found.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.profile) == ("dev.fraud.labels", '{"version": 3}')
    assert files == ["plots/one.svg"]


def test_what_raises_is_a_failed_run(state: StateConfig) -> None:
    with pytest.raises(ZeroDivisionError), running(state, ASSET, key="a/train"):
        raise ZeroDivisionError

    assert list(runs(state).values()) == ["FAILED"]


def run_forever(root: Path) -> None:
    with running(StateConfig(dir=root), ASSET, key="a/train"):
        time.sleep(600)


@pytest.mark.kill
def test_a_killed_run_is_closed_by_its_successor(state: StateConfig) -> None:
    with running(state, ASSET, key="other/train"):
        process = multiprocessing.get_context("spawn").Process(target=run_forever, args=(state.root,))
        process.start()
        eventually(lambda: len(runs(state)) == 2, 180)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        with running(state, ASSET, key="a/train"):
            pass
        assert sorted(runs(state).values()) == ["FINISHED", "KILLED", "RUNNING"], "another key's run goes on"


def signed(name: Name, **more: Any) -> Candidate:
    inputs = (Column("amount", "double", required=True), Column("count", "long"))
    signature = Signature(inputs, (Column("where", required=True),), example=({"amount": 1.5, "count": 2},))
    code = CodeModel(MODELS / "where.py", model_config={"state": {}, "catalog": name.catalog}, signature=signature)
    return Candidate(Kind.MODEL, name, code, digest=digest(str(name)), **more)


def test_a_signature_and_an_example_are_kept_with_the_code(state: StateConfig) -> None:
    with running(state, ASSET, key="a/train") as run, Registry(state) as registry:
        version = registry.register(signed(ASSET, run_id=run.run_id), crown_first=False)
        model = registry.load_model(version)

    inputs = model.metadata.get_input_schema()
    assert [(column.name, column.required) for column in inputs.inputs] == [("amount", True), ("count", False)]
    assert model.metadata.load_input_example()["amount"].tolist() == [1.5]
    for rows in ({"amount": [1.0]}, {"amount": [1.0, 2.0], "count": [None, 3]}, {"amount": [1.0], "count": [3]}):
        assert model.predict(pd.DataFrame(rows))["where"][0] == "dev"
    with MlflowStore(state, "dev").client() as (_, client):
        assert client.get_model_version(str(ASSET), str(version.version)).run_id == run.run_id


def test_a_model_is_told_the_catalog_of_its_version(state: StateConfig) -> None:
    """Its configuration was pinned in dev; a version of another catalog is asked there."""
    with Registry(state) as registry:
        name = Name("staging", "fraud", "clf")
        offered = signed(name)
        assert isinstance(offered.artifact, CodeModel)
        offered.artifact.model_config["catalog"] = "dev"
        model = registry.load_model(registry.register(offered))

    found = model.predict(pd.DataFrame({"amount": [1.0]}))

    assert found["where"][0] == "staging"
    assert found["folder"][0] == str(state.dir)
