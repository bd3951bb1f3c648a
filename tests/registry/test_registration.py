"""Registering: once a digest, never half, whatever interrupts it."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.support.registry_processes import CHAT, MODELS, chain, prompt, register, register_and_die, start

from llmops.core.errors import IntegrityError, NotFoundError, UserError
from llmops.core.ids import digest
from llmops.core.names import Name
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.registry import Candidate, CodeModel, Kind, Pointer, PromptText, Registry, SavedModel, tables
from llmops.registry.mlflow_adapter import MlflowStore, quiet_mlflow

STEPS = ["intent", "artefact", "version", "commit"]


def in_mlflow(state: StateConfig, name: str = str(CHAT)) -> list[int]:
    """The versions MLflow shows under a name, prompts included."""
    with MlflowStore(state, "dev").client() as (_, client):
        prompts = " and tags.`mlflow.prompt.is_prompt` = 'true'"
        found = [v for more in ("", prompts) for v in client.search_model_versions(f"name = '{name}'{more}")]
        return sorted(int(version.version) for version in found)


def open_registrations(state: StateConfig) -> int:
    with open_sql(state) as sql, sql.read() as connection:
        return int(connection.execute(select(func.count()).select_from(tables.registrations)).scalar_one())


def test_the_first_version_is_champion_and_says_why_and_later_ones_leave_it(registry: Registry) -> None:
    first = registry.register(chain("a", description="first", tags={"team": "docs"}, params={"top_k": 8}))
    assert (first.version, first.aliases, first.params, first.tags) == (
        1,
        ("champion",),
        {"top_k": 8},
        {"team": "docs"},
    )
    (record,) = registry.evidence(first)
    assert (record.gate, record.verdict, record.method.name, record.actor) == (
        "bootstrap",
        "pass",
        "first-version",
        "tester",
    )
    second = registry.register(chain("b"))
    assert (second.version, second.aliases) == (2, ())
    assert registry.resolve(str(CHAT)) == first
    assert registry.evidence(second) == []
    assert registry.repair(plan=True).copies.aliases == []


def test_the_same_digest_is_the_same_version_and_needs_no_mlflow(registry: Registry, state: StateConfig) -> None:
    first = registry.register(chain("a"))
    (state.root / "mlflow" / "dev.db").unlink()
    assert registry.register(chain("a", description="again")) == first
    assert not (state.root / "mlflow" / "dev.db").exists()
    assert registry.find(CHAT, first.digest) == first
    assert registry.find(CHAT, "0" * 64) is None


def test_prompts_and_indexes_are_versions_too(registry: Registry, state: StateConfig) -> None:
    text = "Answer {{ question }} from the passages.\n"
    made = registry.register(prompt(text))
    assert (made.kind, made.digest, made.artifact_digest) == (Kind.PROMPT, digest(text), None)
    assert registry.load_prompt("dev.docs.prompt@champion") == text
    assert registry.register(prompt(text)) == made
    name = Name.parse("dev.docs.index")
    generation = state.index(str(name)) / "generations" / "g1"
    index = registry.register(
        Candidate(Kind.INDEX, name, Pointer(str(generation)), digest="1" * 64, tags={"generation": "g1"})
    )
    assert index.source == "index/dev.docs.index/generations/g1"
    assert in_mlflow(state, "dev.docs.prompt") == in_mlflow(state, "dev.docs.index") == [1]
    assert [asset.kind for asset in registry.list()] == [Kind.INDEX, Kind.PROMPT]
    assert [asset.name for asset in registry.list(Kind.INDEX)] == [name]
    with pytest.raises(UserError, match="is an index: it does not answer"):
        registry.load_chain("dev.docs.index")
    with pytest.raises(UserError, match="not a prompt"):
        registry.load_prompt("dev.docs.index")


def test_a_name_has_one_kind(registry: Registry) -> None:
    registry.register(prompt("hello"))
    taken = Name.parse("dev.docs.prompt")
    with pytest.raises(UserError, match=r"`dev.docs.prompt` is a prompt, not an index"):
        registry.register(Candidate(Kind.INDEX, taken, Pointer("/x"), digest="1" * 64))


@pytest.mark.parametrize(
    ("kind", "artifact", "digest_", "told"),
    [
        (Kind.CHAIN, CodeModel(MODELS / "echo.py"), None, "needs a digest"),
        (Kind.CHAIN, CodeModel(MODELS / "echo.py"), "ABC", "64 lower-case hex"),
        (Kind.CHAIN, PromptText("x"), None, "a prompt, and nothing else"),
        (Kind.PROMPT, Pointer("x"), "1" * 64, "a prompt, and nothing else"),
    ],
)
def test_a_candidate_is_checked_when_it_is_made(kind: Kind, artifact: Any, digest_: str | None, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Candidate(kind, CHAT, artifact, digest=digest_)


def test_a_prompt_cannot_pass_under_another_digest(registry: Registry) -> None:
    with pytest.raises(UserError, match="SHA-256 of its text"):
        registry.register(replace(prompt("x"), digest="1" * 64))


def test_code_that_does_not_run_leaves_nothing(registry: Registry, state: StateConfig, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import a_module_that_is_not_there\n")
    with pytest.raises(UserError, match="a_module_that_is_not_there"):
        registry.register(Candidate(Kind.CHAIN, CHAT, CodeModel(broken), digest="1" * 64))
    assert registry.list() == []
    assert in_mlflow(state) == []
    assert open_registrations(state) == 0
    assert list((state.mlflow_artifacts("dev") / "models").glob("*")) == []


def test_a_classic_model_registers_from_its_run_and_predicts(registry: Registry, state: StateConfig) -> None:
    import mlflow

    with MlflowStore(state, "dev").client(), mlflow.start_run() as run:
        mlflow.pyfunc.log_model(name="model", python_model=MODELS / "table.py", pip_requirements=["mlflow"])
        uri = f"models:/{mlflow.last_logged_model().model_id}"
    name = Name.parse("dev.risk.fraud")
    made = registry.register(Candidate(Kind.MODEL, name, SavedModel(uri)))
    assert made.digest == made.artifact_digest
    assert registry.register(Candidate(Kind.MODEL, name, SavedModel(uri))) == made
    assert in_mlflow(state, str(name)) == [1]
    assert registry.load_model("dev.risk.fraud").predict([1.0, 2.0]) == [2.0, 4.0]
    assert run.info.run_id


def test_a_model_in_a_folder_is_copied_to_mlflow(registry: Registry, tmp_path: Path) -> None:
    import mlflow

    folder = tmp_path / "saved"
    with quiet_mlflow():
        mlflow.pyfunc.save_model(str(folder), python_model=str(MODELS / "table.py"), pip_requirements=["mlflow"])
    name = Name.parse("dev.risk.fraud")
    made = registry.register(Candidate(Kind.MODEL, name, SavedModel(str(folder))))
    shutil.rmtree(folder)
    assert registry.load_model(made).predict([3.0]) == [6.0]
    with pytest.raises(NotFoundError, match="the artefact is gone"):
        registry.register(Candidate(Kind.MODEL, name, SavedModel(str(folder))))


@pytest.mark.kill
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_registration_is_finished_by_its_rerun(state: StateConfig, step: str) -> None:
    killed = start(register_and_die, state, chain("a"), step)
    killed.join(timeout=120)
    assert killed.exitcode == -signal.SIGKILL
    with Registry(state) as registry:
        assert [version.version for version in registry.versions()] == ([1] if step == "commit" else [])
        made = registry.register(chain("a"))
        assert (made.version, made.aliases) == (1, ("champion",))
        assert len(registry.versions()) == 1
        assert in_mlflow(state) == [1]
        assert open_registrations(state) == 0
        assert len(list((state.mlflow_artifacts("dev") / "models").iterdir())) == 1
        assert registry.load_chain(made)
        found = registry.repair()
        assert found.registrations == []
        assert [(d.record, d.mlflow) for d in found.copies.aliases] == ([(1, None)] if step == "commit" else [])


@pytest.mark.kill
@pytest.mark.parametrize("candidate", [chain("a"), prompt("one")], ids=["chain", "prompt"])
def test_a_killed_registration_is_discarded_where_something_else_follows(state: StateConfig, candidate: Any) -> None:
    killed = start(register_and_die, state, candidate, "version")
    killed.join(timeout=120)
    other = chain("b") if candidate.kind is Kind.CHAIN else prompt("two")
    with Registry(state) as registry:
        (found,) = registry.repair(plan=True).registrations
        assert found.name == str(candidate.name)
        made = registry.register(other)
        assert [version.digest for version in registry.versions()] == [made.digest]
        assert in_mlflow(state, str(candidate.name)) == [made.version]
        assert registry.repair().registrations == []


@pytest.mark.kill
def test_repair_discards_what_nobody_finishes(state: StateConfig) -> None:
    killed = start(register_and_die, state, chain("a"), "version")
    killed.join(timeout=120)
    with Registry(state) as registry:
        (left,) = registry.repair(plan=True).actions
        assert (left.action_name, left.about) == ("create", str(CHAT))
        found = registry.repair()
        assert (len(found.registrations), found.actions) == (1, [left])
        assert (registry.repair(plan=True).registrations, registry.repair(plan=True).actions) == ([], [])
        assert [entry.phase for entry in registry.audit.read()] == ["abandoned", "intent"]
        report = registry.audit.verify()
        assert (report.ok, report.warnings) == (True, [])
    assert in_mlflow(state) == []
    assert list((state.mlflow_artifacts("dev") / "models").glob("*")) == []


def test_two_processes_registering_the_same_make_one_version(state: StateConfig) -> None:
    told = multiprocessing.get_context("forkserver").Queue()
    processes = [start(register, state, chain("a"), told) for _ in range(3)]
    assert [told.get(timeout=120) for _ in processes] == [1, 1, 1]
    for process in processes:
        process.join(timeout=120)
    assert in_mlflow(state) == [1]


def test_an_mlflow_store_that_forgot_its_versions_is_noticed(
    registry: Registry, state: StateConfig, empty_mlflow: Path, tmp_path: Path
) -> None:
    registry.register(chain("a"))
    elsewhere = tmp_path / "other.db"
    shutil.copyfile(empty_mlflow, elsewhere)
    with Registry(state.model_copy(update={"mlflow_uri": f"sqlite:///{elsewhere}"})) as other:
        with pytest.raises(IntegrityError, match="already registered"):
            other.register(chain("b"))
        assert [version.version for version in other.versions()] == [1]


def test_another_machine_registering_the_same_meanwhile_wins(
    state: StateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two state folders on one SQL database and one MLflow have no lock in common: the database decides."""
    monkeypatch.setenv("AUDIT_KEY", "k" * 32)
    state = state.model_copy(
        update={"audit_key": "env:AUDIT_KEY", "sql_url": state.sql, "mlflow_uri": state.mlflow("dev")}
    )
    elsewhere = state.model_copy(update={"dir": tmp_path / "elsewhere"})
    plain = MlflowStore.store

    def overtaken(store: MlflowStore, candidate: Candidate, **options: Any) -> Any:
        monkeypatch.setattr(MlflowStore, "store", plain)
        with Registry(elsewhere) as other:
            assert other.register(chain("a")).version == 1
        return plain(store, candidate, **options)

    monkeypatch.setattr(MlflowStore, "store", overtaken)
    with Registry(state) as registry:
        assert registry.register(chain("a")).version == 1
        assert len(registry.versions()) == 1
        assert registry.repair(plan=True).registrations == []
    assert in_mlflow(state) == [1]
    assert open_registrations(state) == 0
