"""Export, search and launch as they are typed."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from llmops.cli.commands.finetune.export import command as export
from llmops.cli.commands.finetune.launch import command as launch
from llmops.core.errors import NotFoundError, UserError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    lines = ["job: finetune", "name: bot", "model: {path: m}", "data: {sources: [{uri: a}]}"]
    path.write_text("\n".join([*lines, f"state: {{dir: {tmp_path / 'state'}}}"]))
    return path


def test_a_plan_prints_what_would_be_handed_in(config: Path, tmp_path: Path) -> None:
    asked = [str(config), "--plan", "--json", "--set", "launch.kind=slurm", "--set", f"launch.shared_dir={tmp_path}"]
    done = CliRunner().invoke(launch, asked, catch_exceptions=False)
    files = orjson.loads(done.stdout)
    assert list(files) == ["bot.sbatch", "bot.yaml"]
    assert not (tmp_path / "bot.sbatch").exists()


def test_a_local_job_is_not_handed_in(config: Path) -> None:
    with pytest.raises(UserError, match=r"launch\.kind is local"):
        CliRunner().invoke(launch, [str(config)], catch_exceptions=False)


def test_an_export_says_what_it_lacks(config: Path) -> None:
    with pytest.raises(UserError, match="say what to make of it"):
        CliRunner().invoke(export, ["bot"], catch_exceptions=False)
    with pytest.raises(NotFoundError, match="no run is called `bot`"):
        CliRunner().invoke(export, ["bot", "--merge", "--config", str(config)], catch_exceptions=False)
