"""A loop whose training runs on a cluster: handed in once, taken up once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from click.testing import CliRunner
from tests.support.trained import base_in, scores, trained

from llmops.cli.commands.finetune.loop import command
from llmops.core.errors import ConfigError, GateFailedError, UnavailableError, UserError
from llmops.core.state import StateConfig
from llmops.finetune import loop as thumbs
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.handed import turn
from llmops.finetune.launch import running_state
from llmops.finetune.runs import JOB, RunFolder
from llmops.registry import Registry

NAME = "dev.support.afar"
SBATCH = """#!/bin/bash
echo "$@" >> "{said}"
[ -e "{said}.full" ] && echo "queue is full" >&2 && exit 1
echo 4711
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_in(tmp_path_factory.mktemp("models"))


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What sbatch was called with, a line each; it refuses where `<said>.full` is there."""
    place = tmp_path / "said"
    place.touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH.format(said=place))
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return place


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The thumbs that there are, in place of the lake's."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"question {number}"}],
            "completion": "an answer",
            "label": number % 2 == 0,
            "feedback_id": f"f{number}",
            "event_time": f"2026-01-01T00:00:{number:02d}",
            "requester": f"person {number % 3}",
        }
        for number in range(12)
    ]
    monkeypatch.setattr(thumbs, "thumbs", lambda *_: list(rows))
    return rows


@pytest.fixture
def config(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinetuneConfig:
    """The state is this machine's: nodes keep another, in the folder that they share."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shared").mkdir()
    return FinetuneConfig.model_validate(
        {
            "task": "kto",
            "name": "afar",
            "model": {"path": str(base)},
            "method": {"r": 4, "alpha": 8},
            "data": {"sources": [{"uri": "feedback:"}]},
            "loop": {"min_rows": 6, "min_each": 3, "min_people": 3, "max_share": 0.5},
            "track": {"register_as": NAME, "promote": False},
            "launch": {"kind": "slurm", "shared_dir": str(tmp_path / "shared")},
        }
    )


def on_the_cluster(config: FinetuneConfig, seed: int = 1, stage: str = "done", after: float = 0.9) -> RunFolder:
    """What nodes leave behind of the job that was written for them."""
    job = FinetuneConfig.model_validate(yaml.safe_load((config.launch.shared_dir / "afar.yaml").read_text()))  # type: ignore[operator]
    assert job.track.register_as is None  # nodes know another registry
    assert job.state == running_state(config) != config.state
    folder = trained(job.state, job, seed=seed, found=scores(after=after))
    folder.write(JOB, {"config": job.model_dump(mode="json")})
    folder.update(stage=stage, problem="the loss is not a number" if stage == "failed" else None)
    return folder


def test_a_loop_is_handed_in_and_its_result_taken_up(
    config: FinetuneConfig, said: Path, given: list[dict[str, Any]]
) -> None:
    first = turn(config)
    assert first.handed is not None
    assert (first.handed.job_id, first.handed.kind) == ("4711", "slurm")
    sent = Path(first.handed.set)
    assert sent.parent == config.launch.shared_dir / "feedback"  # type: ignore[operator]
    assert sent.stat().st_mode & 0o777 == 0o600
    assert len(sent.read_text().splitlines()) == 12
    waiting = turn(config)
    assert (waiting.submitted, waiting.run) == (None, None)
    run = on_the_cluster(config, stage="training")
    running = turn(config).run
    assert running is not None
    assert running.stage == "training"
    run.update(stage="done")
    came = turn(config)
    assert (came.handed, len(said.read_text().splitlines())) == (None, 1)
    assert came.run is not None
    with Registry(StateConfig()) as registry:
        version = registry.resolve(str(came.run.version))
        assert {record.gate: record.verdict for record in registry.evidence(version)}["finetune"] == "pass"
    assert turn(config).run is None  # nothing new
    given.append({**given[0], "feedback_id": "later", "requester": "person 1"})
    assert turn(config).submitted is not None


def test_a_result_that_is_not_better_is_judged_once(
    config: FinetuneConfig, said: Path, given: list[dict[str, Any]]
) -> None:
    turn(config)
    on_the_cluster(config, seed=2, after=0.1)
    with pytest.raises(GateFailedError):
        turn(config)
    after = turn(config)
    assert after.collected is not None
    assert (after.collected.new, after.submitted) == (0, None)


def test_a_run_that_failed_is_told_and_handed_in_again(
    config: FinetuneConfig, said: Path, given: list[dict[str, Any]]
) -> None:
    turn(config)
    on_the_cluster(config, seed=3, stage="failed")
    with pytest.raises(UserError, match="failed: the loss is not a number"):
        turn(config)
    assert turn(config).submitted is not None
    assert len(said.read_text().splitlines()) == 2


def test_what_the_cluster_did_not_take_is_handed_in_by_the_next_loop(
    config: FinetuneConfig, said: Path, given: list[dict[str, Any]]
) -> None:
    full = said.with_name("said.full")
    full.touch()
    with pytest.raises(UnavailableError, match="queue is full"):
        turn(config)
    full.unlink()
    given.append({**given[0], "feedback_id": "later", "requester": "person 1"})
    second = turn(config)
    assert second.submitted is not None
    assert second.handed is not None
    assert len(second.handed.taken) == 12  # the set that was written down
    assert turn(config).submitted is None
    assert turn(config, again=True).submitted is not None


def test_nothing_is_handed_in_without_a_yes_or_a_folder_in_common(
    config: FinetuneConfig, said: Path, given: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True)))

    def asked(*more: str) -> Callable[[], Any]:
        return lambda: CliRunner().invoke(command, [str(file), *more], standalone_mode=False, catch_exceptions=False)

    with pytest.raises(UserError, match="this would be handed in, 1 node x 1 rank"):
        asked()()
    with pytest.raises(ConfigError, match="have to reach the nodes"):
        asked("--yes", "--set", f"launch.shared_dir={tmp_path / 'elsewhere'}")()
    assert said.read_text() == ""
    done = asked("--yes")()
    assert "Next: squeue --job 4711" in done.stderr
    assert "again, which takes the result up" in done.stderr
    shown = asked("--json")()
    assert orjson.loads(shown.stdout)["handed"]["job_id"] == "4711"
    assert "as job 4711: has not begun" in asked()().stdout
