"""A run that would cost or take more than its limits is refused before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.training import config, prepared

from llmops.finetune.preflight import fit_checks
from llmops.finetune.preflight.fit_checks import within_limits


def test_a_run_over_its_limits_is_refused(base: Path, tmp_path: Path) -> None:
    priced = {"price_per_gpu_h": 1000.0}
    check = within_limits(prepared(config(base, tmp_path, limits={"hours": 1e-9}, launch=priced)))
    assert check.verdict == "fail"
    assert "limits.hours" in check.what
    assert "train.budget" in check.hint
    dear = within_limits(prepared(config(base, tmp_path, limits={"usd": 1e-9}, launch=priced)))
    assert dear.verdict == "fail"
    assert within_limits(prepared(config(base, tmp_path, limits={"hours": 10}))).verdict == "pass"


def test_what_an_unknown_device_would_take_is_not_guessed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_checks, "_device_name", lambda device: "Abacus 3000")
    job = prepared(config(base, tmp_path, limits={"hours": 10}))
    check = within_limits(replace(job, plan=replace(job.plan, device="cuda")))
    assert check.verdict == "fail"
    assert "not known what a `Abacus 3000` can do" in check.what
    assert "train.budget" in check.hint
