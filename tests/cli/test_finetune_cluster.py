"""Runs of a cluster as they are gone on with; and commands that one process of one machine does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from tests.support import tiny_lm, training
from tests.support.ports import free_port

from llmops.cli.commands.finetune import command as finetune
from llmops.core.errors import ConfigError, ConflictError, NotFoundError, UserError
from llmops.core.identity import LOCAL
from llmops.core.state import StateConfig
from llmops.finetune import jobs
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.runs import RunFolder, open_run
from llmops.finetune.tasks import finetune as train_task
from llmops.finetune.train import _identity
from llmops.registry.workflow import TaskContext


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_lm.tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def job(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job file of a cluster whose queue takes everything, and which says no state: nodes keep theirs."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/said\necho 41\n')
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.chdir(tmp_path)
    launch = {"kind": "slurm", "shared_dir": str(tmp_path / "shared")}
    made = training.config(base, tmp_path, launch=launch, eval={"max_examples": 2, "max_new_tokens": 2})
    values = {"job": "finetune", **made.model_dump(mode="json", exclude_defaults=True)}
    del values["state"]
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def called(*words: str) -> Result:
    return CliRunner().invoke(finetune, list(words), standalone_mode=False, catch_exceptions=False)


def begun(job: Path) -> RunFolder:
    """What nodes leave that were stopped before their first step."""
    config = FinetuneConfig.model_validate(yaml.safe_load(job.read_text()))
    state = config.state.model_copy(update={"dir": config.launch.shared_dir / "state"})  # type: ignore[operator]
    ready = training.prepared(config.model_copy(update={"state": state}))
    folder = open_run(state, name=config.name, task=config.task, identity=_identity(ready))
    jobs.write(ready, folder)
    folder.update(stage="interrupted")
    return folder


def test_a_run_of_a_cluster_is_handed_in_again_and_is_the_same_run(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(job)
    with pytest.raises(NotFoundError, match="no run is called"):
        called("resume", folder.run_id)  # the state of this folder is not that of the nodes
    with pytest.raises(UserError, match="this would be handed in"):
        called("resume", folder.run_id, "--config", str(job))
    with folder.locked(), pytest.raises(ConflictError, match="already training this run"):
        called("resume", folder.run_id, "--config", str(job), "--yes")
    assert not (tmp_path / "said").exists()
    done = called("resume", folder.run_id[:8], "--config", str(job), "--yes")
    assert "Next: squeue --job 41" in done.stderr
    written = tmp_path / "shared" / "tiny.yaml"
    script = (tmp_path / "shared" / "tiny.sbatch").read_text()
    words = ["finetune", str(written), "--run", folder.run_id]
    assert " ".join(["llmops", *words]) in script
    # A node does its part, which is to go on with that run.
    monkeypatch.setenv("LLMOPS_NODE", f"0/1@127.0.0.1:{free_port()}")
    assert called(*words[1:]).return_value == 0
    assert (folder.record().stage, folder.record().step, folder.record().attempts) == ("done", 8, 1)
    assert [one.name for one in folder.path.parent.glob("*/run.json")] == ["run.json"]
    monkeypatch.delenv("LLMOPS_NODE")
    shown = called("resume", folder.run_id, "--config", str(job))
    assert "done after 8 steps" in shown.stdout
    assert len((tmp_path / "said").read_text().splitlines()) == 1


def test_another_run_is_not_begun_in_its_place(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begun(job)
    with (tmp_path / "rows.jsonl").open("ab") as rows:
        rows.write((tmp_path / "rows.jsonl").read_bytes().splitlines()[0].replace(b"day 0", b"day 99") + b"\n")
    with pytest.raises(ConflictError, match=r"rows\.jsonl"):
        called("resume", folder.run_id, "--config", str(job), "--yes")
    assert not (tmp_path / "said").exists()
    monkeypatch.setenv("LLMOPS_NODE", f"0/1@127.0.0.1:{free_port()}")
    with pytest.raises(ConflictError, match="is another one than when the run began"):
        called(str(job), "--run", folder.run_id, "--set", f"state.dir={tmp_path / 'shared' / 'state'}")
    assert len(list(folder.path.parent.glob("*/run.json"))) == 1
    monkeypatch.setenv("LLMOPS_NODE", "1/2@127.0.0.1:29400")
    with pytest.raises(UserError, match="this process is node 1 of 2"):
        called("resume", folder.run_id, "--config", str(job))


def test_a_run_that_was_never_prepared_has_nothing_to_go_on_with(job: Path, tmp_path: Path) -> None:
    folder = begun(job)
    (folder.path / "job.json").unlink()
    with pytest.raises(NotFoundError, match="ended before it was prepared") as caught:
        called("resume", folder.run_id, "--config", str(job))
    assert "llmops finetune CONFIG" in str(caught.value.hint)


@pytest.mark.parametrize(
    "words", [("search", "--space", "train.lr=1e-4..1e-2"), ("prove-resume", "--steps", "4")], ids=lambda one: one[0]
)
def test_what_trains_here_says_so_of_a_job_for_a_cluster(
    job: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, *more = words
    with pytest.raises(ConfigError, match=r"trains on this machine, and launch\.kind is slurm") as caught:
        called(command, str(job), *more)
    assert "--set launch.kind=local" in str(caught.value.hint)
    monkeypatch.setenv("LLMOPS_NODE", "1/2@127.0.0.1:29400")
    with pytest.raises(ConfigError, match="this one is node 1 of 2"):
        called(command, str(job), *more)


def test_a_workflow_does_not_train_a_clusters_job_here(job: Path) -> None:
    context = TaskContext("run", "flow", "train", 1, {"config": str(job)}, {}, "dev", StateConfig(), LOCAL)
    with pytest.raises(ConfigError, match=r"task `train` trains on this machine, and launch\.kind is slurm"):
        train_task(context)
