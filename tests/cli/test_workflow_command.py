"""`llmops workflow` as people start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.workflows import Bench, task, write

from llmops.cli import main as entry
from llmops.core.state import StateConfig


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = entry.run(["workflow", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_run_is_told_and_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write(folder, [task("train", given={"version": "${params.v}"}), task("deploy")], params={"v": 3})
    code, out, err = run(capsys, "run", place, "--set", "params.v=4")
    assert (code, out) == (0, "")
    assert "train: running\ntrain: succeeded in" in err
    assert "Next: `llmops workflow show" in err
    code, out, err = run(capsys, "show", "flow", "--json")
    shown = json.loads(out)
    assert [one["values"] for one in shown["tasks"]] == [{"version": 4}, {}]
    assert shown["status"] == "succeeded"
    code, out, _ = run(capsys, "list", "--json")
    assert [one["run_id"] for one in json.loads(out)] == [shown["run_id"]]
    assert run(capsys, "list", "flow")[1].splitlines()[1].split("\t")[1:4] == ["flow", "succeeded", "manual"]
    assert "did you mean `flow`" in run(capsys, "list", "flw")[2]
    assert "did you mean `train`" in run(capsys, "show", "flow", "--log", "trian")[2]


def test_a_failure_shows_the_end_of_its_log(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "run", write(folder, [task("a", "fail")]), "--json")
    assert code == 1
    assert json.loads(out)["error"]["what"] == "ValueError: the data is odd"
    assert 'raise ValueError("the data is odd")' in err
    assert "error: task `a`: ValueError: the data is odd\n  --> " in err
    assert "llmops workflow resume" in err


def test_a_gate_exits_with_three(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "run", write(folder, [task("a", "refuse")]))
    assert code == 3
    assert err.endswith("error: task `a`: recall fell to 0.41\n  --> dev.fraud.clf/2\nhint: train it on more data\n")
    code, _, err = run(capsys, "resume", json.loads(run(capsys, "list", "--json")[1])[0]["run_id"])
    assert code == 1
    assert "refused by the gate of `a`" in err


def test_a_run_that_waits_is_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "there"
    place = write(folder, [task("a", "wait", given={"file": str(file)})])
    assert run(capsys, "run", place)[0] == 0
    code, out, err = run(capsys, "run", place, "--waiting-exit-code", 99, "--json")
    assert (code, json.loads(out)["status"]) == (99, "waiting")
    run_id = json.loads(out)["run_id"]
    assert f"{run_id} waits: a: the file is not there yet" in err
    code, out, err = run(capsys, "run", place, "--set", "params.x=1")
    assert "unknown parameter `x`" in err
    file.touch()
    code, out, _ = run(capsys, "resume", run_id[:20], "--json")
    assert (code, json.loads(out)["status"], json.loads(out)["run_id"]) == (0, "succeeded", run_id)


def test_a_key_makes_a_start_that_is_repeated_one_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write(folder, [task("a")])
    ids = {json.loads(run(capsys, "run", place, "--key", key, "--json")[1])["run_id"] for key in ("k", "k", "l")}
    assert len(ids) == 2


def test_another_configuration_waits_for_its_turn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = {"file": str(folder / "there")}
    place = write(folder, [task("a", "wait", given={**waiting, "x": "${params.x}"})], params={"x": 1})
    run(capsys, "run", place)
    code, _, err = run(capsys, "run", place, "--set", "params.x=2")
    assert code == 0
    assert "is queued behind" in err
    (folder / "there").touch()
    code, _, err = run(capsys, "run", place, "--set", "params.x=2")
    assert code == 0
    assert [one["status"] for one in json.loads(run(capsys, "list", "--json")[1])] == ["succeeded", "succeeded"]


def test_a_plan_runs_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [task("train"), task("deploy", given={"v": "${train.v}"}), task("look", needs=[], when="${params.x}")]
    place = write(folder, tasks, params={"x": True}, on_failure=[task("clean")])
    code, out, _ = run(capsys, "run", place, "--plan", "--json")
    plan = json.loads(out)
    assert code == 0
    assert [(one["task"], one["needs"], one["when"]) for one in plan["tasks"]] == [
        ("train", [], None),
        ("deploy", ["train"], None),
        ("look", [], "${params.x}"),
        ("clean", [], "after a failure"),
    ]
    assert plan["params"] == {"x": True}
    assert not (folder / ".llmops").exists()
    assert "deploy\ttests.support.workflow_tasks:echo\ttrain\t\tv=${train.v}" in run(capsys, "run", place, "--plan")[1]


def test_looking_makes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "list", "--json")[:2] == (0, "[]\n")
    assert run(capsys, "show", "x")[0] == 1
    assert list(folder.iterdir()) == []


def test_a_run_is_cancelled_from_another_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(folder, StateConfig())
    place = write(folder, [task("a", "slow", given=bench.given())])
    command = [sys.executable, "-m", "llmops.cli.main", "workflow", "run", str(place)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        while not bench.began():
            assert process.poll() is None
            time.sleep(0.02)
        (one,) = bench.flows.list("flow")
        assert run(capsys, "cancel", one.run_id)[0] == 0
        assert process.wait(120) == 1
    finally:
        process.kill()
        process.communicate()
        bench.flows.close()
    assert json.loads(run(capsys, "show", "flow", "--json")[1])["status"] == "cancelled"


@pytest.mark.kill
def test_a_run_that_was_killed_goes_on_with_the_same_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(folder, StateConfig())
    place = write(folder, [task("a", given=bench.given()), task("b", "kill_engine", given=bench.given())])
    command = [sys.executable, "-m", "llmops.cli.main", "workflow", "run", str(place)]
    killed = subprocess.run(command, capture_output=True, check=False, timeout=180)
    assert killed.returncode == -signal.SIGKILL
    assert run(capsys, "run", place)[0] == 0
    assert bench.began() == ["a 1", "b 1", "b 2"]
    bench.flows.close()


def test_templates_are_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write(folder, [task("a")], schedule={"cron": "0 9 * * *"})
    code, out, _ = run(capsys, "template", "cron", place.name, "--out", folder / "deploy")
    assert code == 0
    assert [Path(line).name for line in out.splitlines()] == [
        "llmops-flow.crontab",
        "llmops-flow.service",
        "llmops-flow.timer",
    ]
    assert all(Path(line).exists() for line in out.splitlines())
    assert "kind: CronJob" in run(capsys, "template", "kubernetes", place.name)[1]
    assert run(capsys, "schedule", place, "--plan")[1].splitlines()[1].startswith("flow\t2")


def test_the_job_kind_is_known_to_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write(folder, [task("a")])
    assert entry.run(["config", "validate", str(place)]) == 0
    assert entry.run(["config", "schema", "workflow"]) == 0
    assert '"on_failure"' in capsys.readouterr().out
