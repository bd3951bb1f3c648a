"""The fraud model's story by its commands, in prod: first champion, a worse retrain, a better one, and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ASSET = "prod.fraud.fraud_clf"
RUN = ("workflow", "run", "configs/workflows/fraud.yaml")


class Company:
    """A folder with the shipped configurations, worked on in prod; `rina` of the group `risk` has a key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "configs", folder / "configs")
        self.key = self.told("keys", "create", "rina", "--scope", "registry", "--group", "risk")["token"]

    def run(self, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(ROOT), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, "LLMOPS_ENV": "prod", "NO_COLOR": "1", "LLMOPS_KEY": key}
        command = [sys.executable, "-m", "llmops.cli.main", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=240
        )

    def told(self, *arguments: str, code: int = 0, key: str = "") -> Any:
        done = self.run(*arguments, "--json", key=key)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def champion(self) -> int | None:
        (asset,) = [one for one in self.told("models", "list") if one["name"] == ASSET]
        version: int | None = asset["aliases"].get("champion")
        return version

    def approved(self, version: int) -> None:
        """The waiting run goes on to the end once somebody of the group approved."""
        refused = self.run("approve", f"{ASSET}/{version}", "--group", "risk")
        assert refused.returncode == 1
        assert "not in the group" in refused.stderr
        assert self.run("approve", f"{ASSET}/{version}", "--group", "risk", key=self.key).returncode == 0
        run = self.told("workflow", "list")[0]["run_id"]
        assert self.run("workflow", "resume", run).returncode == 0


@pytest.mark.timeout(600)
def test_from_nothing_to_a_champion_and_back(tmp_path: Path) -> None:
    company = Company(tmp_path)
    assert company.run("models", "policy", ASSET, "--set", "configs/policies/fraud.yaml").returncode == 0
    assert "waits" in company.run(*RUN).stderr
    assert company.champion() is None
    company.approved(1)
    assert company.champion() == 1

    worse = company.run(
        *RUN, "--set", "params.months=1", "--set", "params.train_until=2025-03",
        "--set", "params.leave_out=[amount_ratio, abroad, hour]",
    )  # fmt: skip
    assert worse.returncode == 3, worse.stderr
    assert f"the comparison of {ASSET}/2 is a fail" in worse.stderr
    assert company.champion() == 1

    assert "waits" in company.run(*RUN, "--set", "params.today=2026-01").stderr
    assert company.champion() == 1
    company.approved(3)
    assert company.champion() == 3

    assert company.run("rollback", ASSET, "--reason", "too many alarms in review").returncode == 0
    assert company.champion() == 1
    story = company.told("models", "history", ASSET)
    states = [(entry["version"], entry["to"]) for entry in reversed(story) if entry["kind"] == "state"]
    assert [one for one in states if one[1] in ("promoted", "rejected", "rolled_back")] == [
        (1, "promoted"), (2, "rejected"), (3, "promoted"), (3, "rolled_back"), (1, "promoted"),
    ]  # fmt: skip
    assert all(entry["evidence"] for entry in story if entry["kind"] == "alias")
    assert any("too many alarms" in entry["why"] for entry in story)
    assert company.told("audit", "verify")["ok"] is True
