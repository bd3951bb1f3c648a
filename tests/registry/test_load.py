"""Loading: verified before anything runs, our chains as they are, foreign models adapted."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.registry_processes import CHAT, MODELS, chain

from llmops.core.chain import Cancelled, ChainContext, Delta, Done, Message, PassageRef, Retrieval
from llmops.core.errors import IntegrityError, NotFoundError, UpstreamError, UserError
from llmops.core.identity import LOCAL
from llmops.core.state import StateConfig
from llmops.registry import Candidate, CodeModel, Kind, Registry, SavedModel, Version
from llmops.registry.load import artefact
from llmops.registry.mlflow_adapter import load_pyfunc, quiet_mlflow

QUESTION: list[Message] = [{"role": "user", "content": "hello"}]


def ask(loaded: Any, question: str = "hello") -> str:
    messages: list[Message] = [{"role": "user", "content": question}]
    return "".join(event.text for event in loaded.stream(messages, ChainContext()) if isinstance(event, Delta))


def stored(version: Version, state: StateConfig) -> Path:
    with artefact(version.source, state, version.name.catalog) as folder:
        return folder


def copies(state: StateConfig) -> list[Path]:
    return sorted((state.cache / "models").glob("*"))


class Marker:
    """A pickle that proves its execution by a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def doubled(model_input: list[float]) -> list[float]:
    return [2 * value for value in model_input]


@pytest.fixture
def pickled(registry: Registry, tmp_path: Path) -> Version:
    """A model registered as a pickle, as most classic models are."""
    import mlflow

    folder = tmp_path / "saved"
    with quiet_mlflow():
        mlflow.pyfunc.save_model(str(folder), python_model=doubled, pip_requirements=["mlflow"])
    return registry.register(Candidate(Kind.MODEL, CHAT, SavedModel(str(folder))))


def test_a_malicious_pickle_is_refused_before_it_runs(
    registry: Registry, state: StateConfig, pickled: Version, tmp_path: Path
) -> None:
    assert registry.load_model(pickled).predict([1.0]) == [2.0]
    folder, marker = stored(pickled, state), tmp_path / "executed"
    (folder / "python_model.pkl").write_bytes(pickle.dumps(Marker(marker)))
    for load in (registry.load_model, registry.load_chain):
        with pytest.raises(IntegrityError, match=r"`python_model\.pkl` was changed") as caught:
            load(pickled)
        assert caught.value.where == "dev.docs.chat/1"
    assert not marker.exists()
    with pytest.raises(UserError, match="does not load"):
        load_pyfunc(folder, {})  # without the check these bytes do run
    assert marker.exists()


@pytest.mark.parametrize("file", ["echo.py", "MLmodel"])
def test_changed_code_is_refused_before_it_runs(
    registry: Registry, state: StateConfig, tmp_path: Path, file: str
) -> None:
    version, marker = registry.register(chain()), tmp_path / "executed"
    path = stored(version, state) / file
    if file.endswith(".py"):
        path.write_text(f"open({str(marker)!r}, 'w')\n" + path.read_text())
    else:
        path.write_text(path.read_text().replace("echo.py", "../../../evil.py"))
    with pytest.raises(IntegrityError, match=f"`{file}` was changed"):
        registry.load_chain(version)
    assert not marker.exists()
    assert copies(state) == []


def test_files_added_and_lost_are_refused_and_a_lost_artefact_is_told(registry: Registry, state: StateConfig) -> None:
    version = registry.register(chain())
    folder = stored(version, state)
    (folder / "sitecustomize.py").write_text("")
    with pytest.raises(IntegrityError, match="was added"):
        registry.load_chain(version)
    (folder / "sitecustomize.py").unlink()
    (folder / "echo.py").rename(folder.parent / "kept.py")
    with pytest.raises(IntegrityError, match=r"`echo\.py` is missing"):
        registry.load_chain(version)
    shutil.rmtree(folder)
    with pytest.raises(NotFoundError, match="the artefact is gone"):
        registry.load_chain(version)


def test_what_runs_is_a_copy_that_was_checked_too(registry: Registry, state: StateConfig, tmp_path: Path) -> None:
    version, marker = registry.register(chain()), tmp_path / "executed"
    assert ask(registry.load_chain(version)) == "a: hello"
    (copy,) = copies(state)
    assert copy.name == version.artifact_digest
    (copy / "echo.py").write_text(f"open({str(marker)!r}, 'w')\n" + (copy / "echo.py").read_text())
    (copy / "__pycache__").mkdir(exist_ok=True)
    planted = copy / "__pycache__" / "echo.cpython-311.pyc"
    planted.write_bytes(b"not what it seems")
    assert ask(registry.load_chain(version)) == "a: hello"
    assert not marker.exists()
    assert copies(state) == [copy]
    assert not planted.exists() or planted.read_bytes() != b"not what it seems"  # Python may have compiled it anew


def test_what_a_killed_loader_left_is_swept(registry: Registry, state: StateConfig) -> None:
    old, fresh = state.cache / "models" / ".old", state.cache / "models" / ".fresh"
    old.mkdir(parents=True)
    fresh.mkdir()
    os.utime(old, (0, 0))
    registry.load_chain(registry.register(chain()))
    assert not old.exists()
    assert fresh.exists()  # another process may be at it


def test_a_state_folder_may_move_with_its_artefacts(registry: Registry, state: StateConfig, tmp_path: Path) -> None:
    version = registry.register(chain(file="ours.py"))
    assert not Path(version.source).is_absolute()
    registry.close()
    moved = StateConfig(dir=tmp_path / "moved")
    state.root.rename(moved.root)
    with Registry(moved) as there:
        assert ask(there.load_chain(version)) == str(moved.dir)  # and the model is told of the new place


def test_a_chain_of_ours_comes_out_as_it_is(registry: Registry) -> None:
    loaded = registry.load_chain(registry.register(chain(file="ours.py")))
    assert type(loaded).__name__ == "Ours"
    assert loaded.version_info == {"model": "ours"}


def test_an_opener_builds_our_chain_without_mlflow(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmops.registry import mlflow_adapter
    from llmops.registry.adapt import PyfuncChain

    opened: list[dict[str, Any]] = []
    module = types.ModuleType("llmops.for_this_test")
    module.open_it = lambda config: opened.append(config) or PyfuncChain(object(), name="opened")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llmops.for_this_test", module)
    candidate = chain("a")
    assert isinstance(candidate.artifact, CodeModel)

    def registered(number: int, opener: str) -> Version:
        artifact = replace(candidate.artifact, opener=opener)  # type: ignore[type-var]
        return registry.register(replace(candidate, digest=f"{number:064x}", artifact=artifact))

    good = registered(1, "llmops.for_this_test:open_it")
    gone = registered(2, "llmops.for_this_test:not_there")
    foreign = registered(3, "os:system")
    monkeypatch.setattr(mlflow_adapter, "load_pyfunc", None)
    assert registry.load_chain(good).version_info == {"model": "opened"}
    assert opened[0]["greeting"] == "a"
    assert opened[0]["state"]["dir"]
    with pytest.raises(UserError, match="made by another release"):
        registry.load_chain(gone)
    with pytest.raises(UserError, match="no opener of this package"):
        registry.load_chain(foreign)


def test_a_foreign_pyfunc_answers_as_a_chain(registry: Registry) -> None:
    loaded = registry.load_chain(registry.register(chain("greeting")))
    retrieval, delta, done = loaded.stream(QUESTION, ChainContext())
    assert retrieval == Retrieval((), "", 0)
    assert delta == Delta("greeting: hello")
    assert isinstance(done, Done)
    assert not done.refused
    assert loaded.version_info == {"model": "dev.docs.chat/1"}
    with pytest.raises(NotFoundError):
        loaded.passage(PassageRef("a.md", 0, 1, "x"), LOCAL)
    with pytest.raises(UserError, match="the question is empty"):
        ask(loaded, "  ")
    loaded.close()


def test_a_foreign_agent_streams_is_cancelled_and_fails_in_our_words(registry: Registry) -> None:
    loaded = registry.load_chain(registry.register(chain(file="streaming.py")))
    events = list(loaded.stream(QUESTION, ChainContext()))
    assert [event.text for event in events if isinstance(event, Delta)] == ["one ", "two"]
    context = ChainContext()
    stream = loaded.stream(QUESTION, context)
    next(stream), next(stream)
    context.cancel.cancel()
    with pytest.raises(Cancelled):
        next(stream)
    with pytest.raises(UpstreamError, match="ValueError: broken agent"):
        ask(loaded, "fail")


def test_a_classic_model_is_no_chat(registry: Registry, tmp_path: Path) -> None:
    from mlflow.models import infer_signature
    from mlflow.pyfunc import save_model

    folder = tmp_path / "saved"
    with quiet_mlflow():
        signature = infer_signature({"amount": [1.0], "country": ["de"]})
        save_model(str(folder), python_model=str(MODELS / "table.py"), signature=signature, pip_requirements=["mlflow"])
    loaded = registry.load_chain(registry.register(Candidate(Kind.MODEL, CHAT, SavedModel(str(folder)))))
    with pytest.raises(UserError, match="asks for amount, country: it is no chat model"):
        ask(loaded)
