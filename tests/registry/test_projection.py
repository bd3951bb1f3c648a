"""MLflow's copies of aliases and tags: written after every move, compared, and put right."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.support.registry_processes import CHAT, chain, passing, prompt

from llmops.core.errors import ConflictError, UnavailableError
from llmops.core.state import StateConfig
from llmops.registry import Candidate, Kind, Registry, projection
from llmops.registry.aliases import Move
from llmops.registry.mlflow_adapter import MlflowStore


def test_a_move_reaches_mlflow_and_history(registry: Registry, state: StateConfig) -> None:
    registry.register(chain("a"))
    two = registry.register(chain("b"))
    champion = registry.alias(CHAT, "champion")
    assert champion is not None
    moved = registry.point("champion", two.ref, passing(two), etag=champion.etag)
    assert registry.resolve("dev.docs.chat@champion") == registry.resolve("dev.docs.chat/2")
    assert MlflowStore(state, "dev").aliases()[str(CHAT)] == {"champion": 2}
    assert [line.version for line in registry.history(CHAT)] == [2, 1]
    with pytest.raises(ConflictError):
        registry.point("champion", "dev.docs.chat/1", passing(registry.resolve("dev.docs.chat/1")), etag=champion.etag)
    assert registry.alias(CHAT, "champion") == moved
    assert MlflowStore(state, "dev").aliases()[str(CHAT)] == {"champion": 2}


def test_champion_and_its_predecessor_move_together(registry: Registry, state: StateConfig) -> None:
    one, two = registry.register(chain("a")), registry.register(chain("b"))
    champion = registry.alias(CHAT, "champion")
    assert champion is not None
    proofs = [registry.add_evidence(passing(version)) for version in (one, two)]
    moves = [Move(CHAT, "previous_champion", 1, None, proofs[0]), Move(CHAT, "champion", 2, champion.etag, proofs[1])]
    assert [alias.version for alias in registry.move(moves)] == [1, 2]
    assert MlflowStore(state, "dev").aliases()[str(CHAT)] == {"champion": 2, "previous_champion": 1}


def test_what_others_did_to_mlflow_is_found_and_put_right(registry: Registry, state: StateConfig) -> None:
    registry.register(chain("a"))
    registry.register(chain("b"))
    registry.register(prompt("one"))
    with MlflowStore(state, "dev").client() as (_, client):
        client.set_registered_model_alias(str(CHAT), "champion", "2")
        client.set_registered_model_alias(str(CHAT), "stray", "1")
        client.delete_prompt_alias("dev.docs.prompt", "champion")
        client.create_registered_model("somebody.elses.model")
    found = registry.repair(plan=True).copies.aliases
    assert [(d.name, d.alias, d.record, d.mlflow) for d in found] == [
        ("dev.docs.chat", "champion", 1, 2),
        ("dev.docs.chat", "stray", None, 1),
        ("dev.docs.prompt", "champion", 1, None),
    ]
    assert registry.repair(plan=True).copies.aliases == found  # looking changed nothing
    assert registry.resolve("dev.docs.chat@champion").version == 1  # and the record never moved
    assert registry.repair().copies.aliases == found
    assert registry.repair(plan=True).copies.aliases == []
    held = MlflowStore(state, "dev").aliases()
    assert held[str(CHAT)] == held["dev.docs.prompt"] == {"champion": 1}
    assert held["somebody.elses.model"] == {}


def test_a_move_that_mlflow_does_not_take_stands_and_is_said(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    registry.register(chain("a"))
    two = registry.register(chain("b"))
    champion = registry.alias(CHAT, "champion")
    assert champion is not None

    def down(*_: object, **__: object) -> None:
        raise UnavailableError("MLflow is down")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(MlflowStore, "set_alias", down)
        assert registry.point("champion", two.ref, passing(two), etag=champion.etag).version == 2
    assert "llmops models repair" in caplog.text
    assert [(d.record, d.mlflow) for d in registry.repair().copies.aliases] == [(2, 1)]


@pytest.mark.parametrize("make", [chain, prompt])
def test_tags_changed_in_mlflow_behind_our_back_are_told_and_put_right(
    registry: Registry, state: StateConfig, make: Callable[[str], Candidate]
) -> None:
    version = registry.register(replace(make("a"), tags={"owner": "ann"}))
    registry.tag(version.ref, "stage", "eu")
    assert not registry.repair(plan=True).copies
    store, name, is_prompt = MlflowStore(state, "dev"), str(version.name), version.kind is Kind.PROMPT
    forged = {"owner": "eve", "stage": None, "validation_status": "PASSED", "llmops.digest": "0" * 64, "theirs": "kept"}
    for key, value in forged.items():
        store.set_tag(name, 1, key, value, prompt=is_prompt)
    found = registry.repair(plan=True).copies
    assert [(tag.key, tag.record, tag.mlflow) for tag in found.tags] == [
        ("llmops.digest", version.digest, "0" * 64),
        ("owner", "ann", "eve"),
        ("stage", "eu", None),
        ("validation_status", None, "PASSED"),
    ]
    assert registry.repair().copies == found
    assert not registry.repair(plan=True).copies
    held = store.tags()[name, 1]
    assert (held["owner"], held["stage"], held["theirs"]) == ("ann", "eu", "kept")
    assert "validation_status" not in held


def test_a_tag_set_while_the_copies_are_mended_is_the_one_that_stays(
    registry: Registry, state: StateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.register(chain("a"))
    registry.tag(version.ref, "stage", "eu")
    store = MlflowStore(state, "dev")
    store.set_tag(str(CHAT), 1, "stage", "forged", prompt=False)
    mend = projection.mend

    def late(*found: Any) -> None:
        registry.tag(version.ref, "stage", "us")
        mend(*found)

    monkeypatch.setattr(projection, "mend", late)
    registry.repair()
    assert store.tags()[str(CHAT), 1]["stage"] == "us"
