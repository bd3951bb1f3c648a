"""From one catalog to another, with MLflow for real: the same bytes, lineage, and no evidence brought along."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.promotions import against, found
from tests.support.registry_processes import MODELS, chain, prompt

from llmops.core.errors import DeniedError, IntegrityError, UserError
from llmops.core.identity import Principal
from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.registry import Candidate, Kind, Pointer, Registry, SavedModel
from llmops.registry.mlflow_adapter import MlflowStore, quiet_mlflow
from llmops.registry.promotion import Policy, Promoter, State
from llmops.registry.promotion import copying as copying_


@pytest.fixture
def registry(tmp_path: Path, empty_mlflow: Path) -> Iterator[Registry]:
    """A registry whose catalogs dev and prod have an empty MLflow store each."""
    folder = tmp_path / "state"
    (folder / "mlflow").mkdir(parents=True)
    for catalog in ("dev", "prod"):
        shutil.copyfile(empty_mlflow, folder / "mlflow" / f"{catalog}.db")
    with Registry(StateConfig(dir=folder), principal=Principal("svc:deploy", "service")) as opened:
        yield opened


def test_a_chain_goes_to_prod_with_the_same_bytes(registry: Registry) -> None:
    promoter = Promoter(registry)
    made = registry.register(replace(chain("a"), tags={"team": "docs"}, description="the first"))
    registry.tag(made.ref, "owner", "ann")
    copied = promoter.copy(made.ref, "prod")
    assert str(copied.ref) == "prod.docs.chat/1"
    assert (copied.digest, copied.artifact_digest) == (made.digest, made.artifact_digest)
    assert (copied.tags, copied.params, copied.description) == ({"team": "docs"}, made.params, "the first")
    assert copied.aliases == ()
    assert promoter.copy(made.ref, "prod") == copied
    assert [(f.edge.relation, f.node) for f in registry.lineage(copied.ref)] == [("copied_from", str(made.ref))]
    loaded = registry.load_chain(copied)
    loaded.close()
    promoter.set_policy("prod", Policy(comparison=()))
    waiting = promoter.promote(copied.ref)
    assert (waiting.state, [need.what for need in waiting.needs]) == (State.VALIDATING, ["validation"])
    assert promoter.promote(copied.ref, [found(copied)]).state is State.PROMOTED
    assert registry.show("prod.docs.chat").aliases == {"champion": 1}


def test_prompts_and_indexes_go_too(registry: Registry) -> None:
    index = Candidate(Kind.INDEX, Name.parse("dev.docs.index"), Pointer("index/dev.docs.index#g1"), digest="1" * 64)
    for candidate in (prompt("Answer: {question}"), index):
        made = registry.register(candidate)
        copied = Promoter(registry).copy(made.ref, "prod")
        assert (copied.digest, copied.kind) == (made.digest, made.kind)
    assert registry.load_prompt("prod.docs.prompt/1") == "Answer: {question}"
    assert registry.resolve("prod.docs.index/1").source == "index/dev.docs.index#g1"


def test_a_copy_that_is_not_the_same_is_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    made = registry.register(chain("a"))
    before = copying_._artifact

    def tampered(*arguments: object) -> object:
        artifact = before(*arguments)  # type: ignore[arg-type]
        assert isinstance(artifact, SavedModel)
        (Path(artifact.uri) / "MLmodel").write_text("flavors: {}\n")
        return artifact

    monkeypatch.setattr(copying_, "_artifact", tampered)
    with pytest.raises(IntegrityError, match="not the one that was meant"):
        Promoter(registry).copy(made.ref, "prod")
    assert [str(asset.name) for asset in registry.list()] == ["dev.docs.chat"]
    monkeypatch.undo()
    assert Promoter(registry).copy(made.ref, "prod").digest == made.digest


def test_a_copy_needs_another_catalog(registry: Registry) -> None:
    made = registry.register(prompt("x"))
    with pytest.raises(UserError, match="in `dev` already"):
        Promoter(registry).copy(made.ref, "dev")
    with pytest.raises(UserError, match="three-level name"):
        Promoter(registry).copy(made.ref, "Prod!")


def test_who_made_the_original_cannot_approve_the_copy(registry: Registry) -> None:
    maker = Principal("ann", "key", frozenset({"risk"}))
    with Registry(registry._state, principal=maker) as hers:
        made = hers.register(prompt("x"))
    promoter = Promoter(registry)
    promoter.set_policy("prod", Policy(comparison=(), approvals=("risk",)))
    copied = promoter.copy(made.ref, "prod")
    promoter.promote(copied.ref, [found(copied)])
    with pytest.raises(DeniedError, match="made this version"):
        Promoter(registry, principal=maker).approve(copied.ref, "risk")


def test_a_model_from_a_run_notes_its_run_data_and_metrics(registry: Registry, tmp_path: Path) -> None:
    import mlflow

    with MlflowStore(registry._state, "dev").client(), mlflow.start_run() as run:
        data = mlflow.data.meta_dataset.MetaDataset(
            mlflow.data.http_dataset_source.HTTPDatasetSource("http://x/payments"), name="payments", digest="abc"
        )
        mlflow.log_input(data, context="training")
        mlflow.log_metric("auc", 0.91)
        mlflow.set_tag("mlflow.source.git.commit", "9f2c")
        mlflow.pyfunc.log_model(name="model", python_model=MODELS / "table.py", pip_requirements=["mlflow"])
        uri = f"models:/{mlflow.last_logged_model().model_id}"
    made = registry.register(Candidate(Kind.MODEL, Name.parse("dev.risk.fraud"), SavedModel(uri)), crown_first=False)
    assert made.aliases == ()
    assert {found_.node for found_ in registry.lineage(made.ref)} == {
        f"run:{run.info.run_id}",
        "dataset:payments@abc",
        "code:9f2c",
    }
    assert registry.metrics(made) == {"auc": 0.91}
    copied = Promoter(registry).copy(made.ref, "prod")
    assert registry.metrics(copied) == {"auc": 0.91}
    assert registry.load_model(copied).predict([1.0]) == [2.0]
    folder = tmp_path / "saved"
    with quiet_mlflow():
        mlflow.pyfunc.save_model(str(folder), python_model=str(MODELS / "table.py"), pip_requirements=["mlflow"])
    plain = registry.register(Candidate(Kind.MODEL, Name.parse("dev.risk.other"), SavedModel(str(folder))))
    assert registry.lineage(plain.ref) == []
    assert registry.metrics(plain) == {}


def test_a_later_version_is_not_crowned_where_the_first_one_was_not(registry: Registry) -> None:
    registry.register(prompt("one"), crown_first=False)
    assert registry.register(prompt("two")).aliases == ()
    made = registry.resolve("dev.docs.prompt/2")
    promoter = Promoter(registry)
    assert promoter.promote(made.ref, [found(made), against(made, None)]).state is State.PROMOTED
