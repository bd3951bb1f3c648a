"""What docs/workflows.md shows is run as it stands there."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmops.core.state import StateConfig
from llmops.registry.workflow import RunStatus, TaskStatus, Workflows, load_job
from llmops.registry.workflow.schedule import upcoming
from llmops.registry.workflow.trigger import parse, verify

PAGE = (Path(__file__).parents[3] / "docs/workflows.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the page's tasks and its configuration."""
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "tasks.py").write_text(blocks("python")[0])
    (tmp_path / "fraud.yaml").write_text(blocks("yaml")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLACK_URL", raising=False)
    return tmp_path


def test_the_configuration_runs_until_its_version_is_missed(project: Path) -> None:
    job = load_job(Path("fraud.yaml"), ("params.seed=8",))
    assert len(upcoming(job)) == 3
    with Workflows(job.config.state) as flows:
        run = flows.engine().carry(flows.start(job).run_id)
        tasks = {one.task: one for one in flows.show(run.run_id)[1]}
        logs = {name: place.read_text() for name, one in tasks.items() if (place := flows.log(one)) is not None}
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert (run.error.task, run.error.code) == ("validate", "unknown_asset")  # nobody trained dev.fraud.fraud_clf/3
    assert logs["train"] == "training with seed 8\n"
    assert logs["clean"].startswith("validate failed: no asset")
    assert tasks["clean"].status is TaskStatus.SUCCEEDED


def test_the_other_tasks_do_what_is_said_of_them(project: Path) -> None:
    tasks: list[dict[str, Any]] = [
        {"name": name, "run": f"my_project.tasks:{name}"} for name in ("train", "check", "wait_for_data")
    ]
    tasks[0]["with"] = {"seed": 1}
    Path("w.yaml").write_text(yaml.safe_dump({"job": "workflow", "name": "w", "tasks": tasks}))
    with Workflows(StateConfig()) as flows:
        run = flows.engine().carry(flows.start(load_job(Path("w.yaml"))).run_id)
        assert (run.status, run.reason) == (RunStatus.WAITING, "wait_for_data: the month is not closed yet")
        assert flows.wake("month") == [run.run_id]


def test_the_trigger_is_signed_as_the_page_signs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_KEY", "a key of an alert")
    (example,) = [block for block in blocks("console") if "openssl" in block]
    lines = [line.removeprefix("$ ") for line in example.splitlines()[:2]]
    script = "\n".join([*lines, 'printf \'%s\\n%s\\n%s\' "$body" "$now" "$sign"'])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    body, now, sign = done.stdout.split("\n")
    headers = {"x-llmops-timestamp": now, "x-llmops-signature": f"sha256={sign}"}
    trigger = load_job(Path("fraud.yaml")).config.trigger
    assert verify(trigger, headers, body.encode(), now=time.time()) == "alerts"
    assert parse(body.encode()).key == "drift"
