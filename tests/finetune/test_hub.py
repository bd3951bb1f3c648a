"""Bases of the model hub, from its cache on this machine: files that are links to blobs, nothing fetched."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
from tests.support import tiny_lm
from tests.support.training import config, prepared, run_of

from llmops.core.errors import NotFoundError
from llmops.core.state import StateConfig
from llmops.finetune import bases, models
from llmops.finetune.artefact import PLACE, Pinned, model_digest, write
from llmops.finetune.config import ModelConfig
from llmops.finetune.servable import read

NAME = "acme/tiny"
OLD, NEW = "a" * 40, "b" * 40


def put(cache: Path, plain: Path, revision: str) -> Path:
    """Lay the files of a folder down as the hub's client does: blobs by their hashes, a snapshot of links to them."""
    repo = cache / "models--acme--tiny"
    snapshot = repo / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir(exist_ok=True)
    (repo / "refs").mkdir(exist_ok=True)
    for file in plain.iterdir():
        blob = repo / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    (repo / "refs" / "main").write_text(revision)
    return snapshot


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two revisions of a model, as plain folders."""
    made = tmp_path_factory.mktemp("plain")
    found = (tiny_lm.tiny_base(made / "old", seed=1), tiny_lm.tiny_base(made / "new", seed=2))
    for folder in found:
        (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return found


@pytest.fixture
def hub(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache lies by default, below a `.cache`, and the network is off."""
    cache = tmp_path / ".cache" / "huggingface" / "hub"
    put(cache, folders[0], OLD)
    put(cache, folders[1], NEW)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.mark.parametrize(("revision", "which"), [(None, 1), ("main", 1), (OLD, 0), (NEW, 1)])
def test_a_base_is_found_at_its_revision(
    hub: Path, folders: tuple[Path, Path], tmp_path: Path, revision: str | None, which: int
) -> None:
    found = models.find_base(ModelConfig(path=NAME, revision=revision), StateConfig(dir=tmp_path))
    assert found.record is not None
    assert found.record.uri == NAME
    assert found.record.revision == (OLD, NEW)[which]
    assert found.record.licence == "apache-2.0"
    assert found.record.digest == model_digest(folders[which])
    assert bases.locate(found.record, StateConfig(dir=tmp_path)) == found.folder


def test_what_is_not_in_the_cache_is_told(hub: Path, tmp_path: Path) -> None:
    for model in (ModelConfig(path=NAME, revision="c" * 40), ModelConfig(path="acme/other")):
        with pytest.raises(NotFoundError, match="registered version or reachable hub model"):
            models.find_base(model, StateConfig(dir=tmp_path))
    found = models.find_base(ModelConfig(path=NAME), StateConfig(dir=tmp_path)).record
    assert found is not None
    with pytest.raises(NotFoundError, match=f"`{NAME}` at {'c' * 40} is not on this machine") as caught:
        bases.locate(replace(found, revision="c" * 40), StateConfig(dir=tmp_path))
    assert "hf download" in str(caught.value.hint)


def test_a_blob_that_changed_changes_the_digest(hub: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    weights = (hub / "models--acme--tiny" / "snapshots" / NEW / "model.safetensors").resolve()
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    found = models.find_base(ModelConfig(path=NAME), StateConfig(dir=tmp_path)).record
    assert found is not None
    assert found.digest != model_digest(folders[1])


def test_an_adapter_on_a_base_of_the_hub_is_made_and_served(hub: Path, tmp_path: Path) -> None:
    from llmops.finetune.engines.supervised import SupervisedEngine

    job = prepared(config(Path(NAME), tmp_path, train={"budget": {"steps": 1}}))
    folder = run_of(job)
    SupervisedEngine().train(job, folder, lambda event: None)
    made = write(folder.model, tmp_path / "registered", pinned := Pinned("sft", "lora", base=job.base.record))
    assert not any(path.is_symlink() for path in (made / PLACE).iterdir())
    assert read(made, pinned, StateConfig(dir=tmp_path)).model.active_adapter == "default"
    whole = write(job.base.folder or tmp_path, tmp_path / "whole", Pinned("sft", "full"))
    assert not any(path.is_symlink() for path in (whole / PLACE).iterdir())
    assert model_digest(whole / PLACE) == model_digest(job.base.folder or tmp_path)
