"""A run that would cost or take more than its limits is refused before it starts."""

from __future__ import annotations

from pathlib import Path

from tests.support.training import config, prepared

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
