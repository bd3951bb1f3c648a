"""A job from the command line: planned, run, shown, gone on with; what changed meanwhile is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from click.testing import CliRunner
from tests.support.training import config

from llmops.cli.main import run as run_command
from llmops.finetune.journal import read_metrics
from llmops.finetune.runs import find_run, list_runs


@pytest.fixture
def file(base: Path, tmp_path: Path) -> Path:
    """A job of few steps, without a gate it could not pass."""
    job = config(base, tmp_path, eval={"max_new_tokens": 4, "gate": {"beat_base": False}})
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json", exclude_defaults=True) | {"job": "finetune"}))
    return path


def command(*words: str, code: int = 0) -> Any:
    from llmops.cli.commands.finetune import command as group

    done = CliRunner().invoke(group, list(words))
    assert done.exit_code == code, done.output + repr(done.exception)
    return orjson.loads(done.stdout) if "--json" in words else done.stdout


def test_a_job_is_planned_run_shown_and_not_run_twice(file: Path) -> None:
    planned = command(str(file), "--plan", "--json")
    assert planned["plan"]["steps"] == 8
    assert planned["preflight"]["passed"]
    record = command(str(file), "--json")
    assert record["stage"] == "done"
    assert record["step"] == 8
    assert record["run_id"] == planned["run"]
    again = command(str(file), "--json")
    assert again == record
    (listed,) = command("list", "--config", str(file), "--json")
    assert listed["run_id"] == record["run_id"]
    shown = command("show", record["run_id"], "--config", str(file), "--json")
    assert {one["metric"] for one in shown["result"]["evaluation"]["scores"]} == {
        "loss", "token_accuracy", "exact_match",
    }  # fmt: skip
    assert shown["preflight"]["passed"]
    assert shown["last_step"]["step"] == 8


def test_two_ranks_by_the_command(file: Path) -> None:
    record = command(str(file), "--json", "--set", "launch.processes=2", "--set", "parallel.strategy=fsdp2")
    assert record["stage"] == "done"
    assert record["step"] == 8


def test_resume_names_the_file_that_changed(file: Path, tmp_path: Path) -> None:
    record = command(str(file), "--json")
    rows = tmp_path / "rows.jsonl"
    kept = rows.read_bytes()
    rows.write_bytes(kept + kept.splitlines()[0].replace(b"day 0", b"day 99") + b"\n")
    assert run_command(["finetune", "resume", record["run_id"], "--config", str(file)]) == 1
    rows.write_bytes(kept)
    assert run_command(["finetune", "resume", record["run_id"], "--config", str(file)]) == 0


def test_a_gate_that_says_no_is_preflights_too(base: Path, file: Path) -> None:
    assert run_command(["finetune", str(file), "--set", "target.engine=vllm", "--set", "method.kind=dora"]) == 3
    job = yaml.safe_load(file.read_text())
    (run,) = list(list_runs(config(base, file.parent).state))
    record = run.record()
    assert record.stage == "failed"
    assert "fit.servable" in str(record.problem)
    assert not read_metrics(find_run(config(base, file.parent).state, record.run_id))
    assert job["name"] == "tiny"
