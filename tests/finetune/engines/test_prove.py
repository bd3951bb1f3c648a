"""The proof holds for the loop as it is, and sees a resume that forgets something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.support.training import config

from llmops.finetune.engines.parallel import Learner
from llmops.finetune.prove import prove


def test_killed_in_every_phase_the_weights_are_the_same(base: Path, tmp_path: Path) -> None:
    job = config(base, tmp_path, method={"r": 4, "alpha": 8, "dropout": 0.1})
    certificate = prove(job, kills=12, steps=14)
    assert certificate.identical, certificate.text()
    assert {kill.phase for kill in certificate.kills} >= {"step", "begun", "sealed", "named"}
    written = certificate.write(tmp_path / "certificates")
    assert "bit-identical" in written.with_suffix(".txt").read_text()


def test_a_resume_that_forgets_the_moments_is_seen(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restore = Learner._restore

    def forgetting(self: Any, found: Any) -> None:
        restore(self, found)
        self.optimizer.state.clear()

    monkeypatch.setattr(Learner, "_restore", forgetting)
    certificate = prove(config(base, tmp_path), kills=3, steps=8)
    assert not certificate.identical
    assert "DIFFERENT" in certificate.text()


def test_a_base_that_is_made_on_the_way_leaves_no_threads_behind(tmp_path: Path) -> None:
    """Several threads of torch in the process that forks would let the first attempt wait for ever."""
    texts = {"uri": "make:llmops.finetune.quickstart:sentences?rows=80&seed=1"}
    shape = {
        "model_type": "llama",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
    }
    common = {"job": "finetune", "data": {"sources": [texts], "max_length": 256}, "eval": {"max_new_tokens": 4}}
    train = {"global_tokens_per_step": 1024, "budget": {"steps": 3}}
    base = {**common, "name": "base", "task": "pretrain", "model": {"config": shape}, "method": {"kind": "full"}}
    adapter = {**common, "name": "adapter", "task": "sft", "model": {"job": str(tmp_path / "base.yaml")}}
    (tmp_path / "base.yaml").write_bytes(orjson.dumps({**base, "train": train}))
    (tmp_path / "job.yaml").write_bytes(orjson.dumps({**adapter, "train": train}))
    command = [
        sys.executable,
        "-m",
        "llmops.cli.main",
        "finetune",
        "prove-resume",
        "job.yaml",
        "--kills=2",
        "--steps=4",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed 2 times: bit-identical" in done.stdout
