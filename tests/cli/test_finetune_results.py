"""Export, search and jobs of clusters as they are typed."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from llmops.cli.commands.finetune.export import command as export
from llmops.cli.commands.finetune.run import command as run
from llmops.core.errors import ConfigError, NotFoundError, UserError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    lines = ["job: finetune", "name: bot", "model: {path: m}", "data: {sources: [{uri: a}]}"]
    path.write_text("\n".join([*lines, f"state: {{dir: {tmp_path / 'state'}}}"]))
    return path


def slurm(config: Path, tmp_path: Path, *more: str) -> list[str]:
    return [str(config), "--set", "launch.kind=slurm", "--set", f"launch.shared_dir={tmp_path}", *more]


def test_a_plan_prints_what_would_be_handed_in(config: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(run, slurm(config, tmp_path, "--plan", "--json"), catch_exceptions=False)
    files = orjson.loads(done.stdout)["files"]
    assert list(files) == ["bot.sbatch", "bot.yaml"]
    assert not (tmp_path / "bot.sbatch").exists()
    done = CliRunner().invoke(run, slurm(config, tmp_path, "--plan"), catch_exceptions=False)
    assert "#SBATCH --nodes=1" in done.stdout
    assert "1 node x 1 rank for up to 24 h. Nothing was written." in done.stderr


def test_a_cluster_is_not_used_without_a_yes(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/bash\necho 41\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    priced = ("--set", "launch.gpus=8", "--set", "launch.nodes=2", "--set", "launch.price_per_gpu_h=2.5")
    with pytest.raises(UserError, match=r"at most 960\.00 USD an attempt") as caught:
        CliRunner().invoke(run, slurm(config, tmp_path, *priced), catch_exceptions=False)
    assert "hand it in with --yes" in str(caught.value.hint)
    assert not (tmp_path / "bot.sbatch").exists()
    done = CliRunner().invoke(run, slurm(config, tmp_path, "--yes"), catch_exceptions=False)
    assert "Next: squeue --job 41" in done.stderr
    assert (tmp_path / "bot.sbatch").exists()


def test_torchrun_is_started_by_a_person(config: Path, tmp_path: Path) -> None:
    asked = [str(config), "--set", "launch.kind=torchrun", "--set", "launch.nodes=2"]
    done = CliRunner().invoke(run, [*asked, "--set", f"launch.shared_dir={tmp_path}"], catch_exceptions=False)
    assert f"Next: on each node: HEAD=<node 0's address> bash {tmp_path}/bot.sh" in done.stderr
    assert (tmp_path / "bot.sh").stat().st_mode & 0o111
    with pytest.raises(ConfigError, match=r"needs launch\.shared_dir"):
        CliRunner().invoke(run, asked, catch_exceptions=False)


def test_nodes_without_a_launcher_are_refused(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"launch\.kind is local, one machine, and launch\.nodes is 2") as caught:
        CliRunner().invoke(run, [str(config), "--set", "launch.nodes=2"], catch_exceptions=False)
    assert "torchrun" in str(caught.value.hint)


def test_an_export_says_what_it_lacks(config: Path) -> None:
    with pytest.raises(UserError, match="say what to make of it"):
        CliRunner().invoke(export, ["bot"], catch_exceptions=False)
    with pytest.raises(NotFoundError, match="no run is called `bot`"):
        CliRunner().invoke(export, ["bot", "--merge", "--config", str(config)], catch_exceptions=False)
