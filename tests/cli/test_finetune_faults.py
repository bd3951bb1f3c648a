"""What goes wrong around a run: an interrupt in each phase, a watcher that leaves, disks and paths that refuse."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.support import tiny_lm, training

from llmops.cli.commands.finetune import command as finetune
from llmops.cli.finetune_view import watching
from llmops.cli.main import run as run_command
from llmops.cli.storage import refusal
from llmops.core.errors import NotFoundError, StorageError, UserError
from llmops.core.state import StateConfig
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.engines import Phase
from llmops.finetune.engines.signals import Stopped
from llmops.finetune.runs import find_run, list_runs, open_run
from llmops.finetune.train import run_job


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_lm.tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def job(base: Path, tmp_path: Path) -> FinetuneConfig:
    return training.config(
        base, tmp_path, train={"budget": {"steps": 2}}, eval={"max_examples": 2, "max_new_tokens": 2}
    )


def called(*words: str) -> Any:
    return CliRunner().invoke(finetune, list(words), standalone_mode=False, catch_exceptions=False)


def test_an_interrupt_in_any_phase_says_how_to_go_on(job: FinetuneConfig) -> None:
    def interrupting(phase: str) -> Any:
        def listen(event: Any) -> None:
            if event.kind == "phase" and event.stage == phase:
                raise KeyboardInterrupt

        return listen

    told = {"preflight": "preparing", "train": "training", "evaluate": "evaluating"}
    for phase, stage in told.items():
        with pytest.raises(Stopped, match=f"interrupted while {stage}: what was done is kept") as caught:
            run_job(job, listen=interrupting(phase))
        (run,) = list_runs(job.state)
        assert caught.value.exit_code == 130
        assert f"llmops finetune resume {run.run_id}" in str(caught.value.hint)
        assert run.record().stage == "interrupted"
    record = run_job(job)
    assert (record.stage, record.attempts, record.problem) == ("done", 4, None)


def test_a_watcher_that_leaves_does_not_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for events, name in ((True, "stdout"), (False, "stderr")):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as stream:
            monkeypatch.setattr(sys, name, stream)
            with watching(events=events) as listen:
                for stage in ("base", "read", "preflight"):
                    listen(Phase(stage))
            monkeypatch.undo()


def test_a_full_disk_is_no_defect() -> None:
    with pytest.raises(OSError) as caught, Path("/dev/full").open("w") as full:
        full.write("x")
    told = refusal(caught.value)
    assert isinstance(told, StorageError)
    assert told.what == "the disk refused: No space left on device"
    assert "run the same command again" in str(told.hint)
    library = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert isinstance(refusal(library), StorageError)
    assert refusal(ZeroDivisionError()) is None
    assert refusal(FileNotFoundError(2, "No such file or directory")) is None, "of no path: it may be anything"


def test_a_path_that_cannot_be_is_told_before_the_work(
    job: FinetuneConfig, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump({"job": "finetune", **job.model_dump(mode="json", exclude_defaults=True)}))
    assert run_command(["finetune", str(file), "--set", f"state.dir={file}"]) == 1
    assert "the disk refused: Not a directory" in (told := capsys.readouterr().err)
    assert "a file stands where a folder is wanted" in told
    assert run_command(["finetune", "prove-resume", str(file), "--to", str(file)]) == 1
    assert "the disk refused: File exists" in capsys.readouterr().err
    run = run_job(job)
    with pytest.raises(UserError, match="a file stands in the folder's place"):
        called("export", run.run_id, "--merge", "--config", str(file), "--to", str(file))
    with pytest.raises(UserError, match="the folder is not empty"):
        called("export", run.run_id, "--merge", "--config", str(file), "--to", str(base))


def test_the_beginning_of_several_ids_names_them(tmp_path: Path) -> None:
    state = StateConfig(dir=tmp_path)
    made = [open_run(state, name="bot", task="sft", identity=one * 64).run_id for one in "abcd"]
    with pytest.raises(NotFoundError, match="begins the ids of several runs") as caught:
        find_run(state, "bot")
    assert sum(one in str(caught.value.hint) for one in made) == 3
    longer = open_run(state, name="bot-aaaaaaaaaaaa", task="sft", identity="e" * 64)
    assert find_run(state, made[0]).run_id == made[0]  # a whole id, though another begins so
    assert find_run(state, longer.run_id).run_id == longer.run_id
    with pytest.raises(NotFoundError, match="no run is called `other`") as caught:
        find_run(state, "other")
    assert "--config JOB" in str(caught.value.hint)
