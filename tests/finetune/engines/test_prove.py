"""The proof holds for the loop as it is, and sees a resume that forgets something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
