"""Environments: each catalog with a tracking store of its own, and one registry over all of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tests.support.registry_processes import CHAT, chain, passing

from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.registry import Registry
from llmops.registry.aliases import Move
from llmops.registry.mlflow_adapter import MlflowStore

STAGED = Name("staging", "docs", "chat")


def test_a_store_each_unless_configured_otherwise(tmp_path: Path) -> None:
    state = StateConfig(dir=tmp_path)
    assert state.mlflow("prod") == f"sqlite:///{tmp_path}/mlflow/prod.db"
    assert state.mlflow_artifacts("prod") == tmp_path / "artifacts" / "prod"
    shared = StateConfig(dir=tmp_path, mlflow_uri="http://mlflow:5000", mlflow_uris={"prod": "http://prod:5000"})
    assert [shared.mlflow(catalog) for catalog in ("dev", "staging", "prod")] == [
        "http://mlflow:5000",
        "http://mlflow:5000",
        "http://prod:5000",
    ]


def test_versions_aliases_and_repairs_keep_to_their_catalog(
    registry: Registry, state: StateConfig, empty_mlflow: Path, tmp_path: Path
) -> None:
    place = tmp_path / "elsewhere" / "staging.db"
    place.parent.mkdir()
    shutil.copyfile(empty_mlflow, place)
    state = state.model_copy(update={"mlflow_uris": {"staging": f"sqlite:///{place}"}})
    with Registry(state) as spanning:
        dev, staged = spanning.register(chain("a")), spanning.register(replace(chain("a"), name=STAGED))
        assert (dev.version, staged.version) == (1, 1)
        assert MlflowStore(state, "dev").aliases() == {str(CHAT): {"champion": 1}}
        assert MlflowStore(state, "staging").aliases() == {str(STAGED): {"champion": 1}}
        assert staged.source.startswith("artifacts/staging/")
        assert spanning.load_chain(staged)
        second = spanning.register(replace(chain("b"), name=STAGED))
        held = spanning.alias(STAGED, "champion")
        proof = spanning.add_evidence(passing(second))
        spanning.move([Move(STAGED, "champion", 2, held.etag if held else None, proof)])
        assert MlflowStore(state, "staging").aliases()[str(STAGED)] == {"champion": 2}
        for catalog, name in (("dev", CHAT), ("staging", STAGED)):
            MlflowStore(state, catalog).set_alias(str(name), "champion", None, prompt=False)
        found = spanning.repair().copies.aliases
        assert [(each.name, each.record, each.mlflow) for each in found] == [
            (str(CHAT), 1, None),
            (str(STAGED), 2, None),
        ]
        assert spanning.repair(plan=True).copies.aliases == []
        assert spanning.audit.verify().ok
