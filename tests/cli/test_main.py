"""The command line's frame: help without imports, errors with hints, exit codes that scripts can read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from llmops.cli import main as entry
from llmops.core.errors import GateFailedError

HEAVY = {
    "torch",
    "transformers",
    "mlflow",
    "chromadb",
    "openvino",
    "deltalake",
    "duckdb",
    "fastapi",
    "numpy",
    "sqlalchemy",
}


def run(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a person starts it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "llmops.cli.main", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=180
    )


def test_help_names_every_command_and_imports_none_of_their_weight() -> None:
    program = (
        "import sys; from llmops.cli.main import run; code = run(['--help'])\n"
        f"heavy = sorted({HEAVY!r} & set(sys.modules)); print(heavy, file=sys.stderr); sys.exit(code or len(heavy))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in entry.COMMANDS)


@pytest.mark.parametrize("name", sorted(entry.COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    command: click.Command = import_module(f"llmops.cli.commands.{name}").command
    assert command.name == name
    assert command.help
    assert entry.run([name, "--help"]) == 0


def test_wrong_words_get_the_nearest_right_one() -> None:
    done = run("ingets")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "did you mean `ingest`?" in done.stderr
    assert run("config", "show", "--jsn").returncode == 1
    missing = run("config", "schema")
    assert missing.returncode == 1
    assert [line.partition(":")[0] for line in missing.stderr.splitlines()] == ["error", "hint"]
    assert "llmops config schema [OPTIONS] {" in missing.stderr


def test_outcomes_have_their_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def raising(error: BaseException) -> None:
        def main(**_: object) -> None:
            raise error

        monkeypatch.setattr(entry.cli, "main", main)

    for error, code in [
        (GateFailedError("no"), 3),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("sk-" + "b" * 40), 2),
    ]:
        raising(error)
        assert entry.run(["doctor"]) == code
    shown = capsys.readouterr().err
    assert "error: no" in shown
    assert "defect of llmops" in shown
    assert "b" * 40 not in shown


def test_a_reader_that_leaves_is_no_failure(tmp_path: Path) -> None:
    """In a process of its own: what is left to say goes nowhere."""
    code = (
        "import click; from llmops.cli import main as entry\n"
        "def told(): click.echo('first'); click.echo('x' * 1_000_000)\n"
        "entry.LazyGroup.get_command = lambda self, ctx, name: click.Command(name, callback=told)\n"
        "raise SystemExit(entry.run(['doctor']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"first\n"
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(120), said) == (0, b"")


def test_init_writes_a_project_once_and_config_explains_it(tmp_path: Path) -> None:
    assert run("init", "project", folder=tmp_path).returncode == 0
    project = tmp_path / "project"
    (project / "docs" / "welcome.md").write_text("mine")
    again = run("init", folder=project)
    assert "kept" in again.stderr
    assert (project / "docs" / "welcome.md").read_text() == "mine"
    shown = run("config", "show", "--json", "--set", "retrieval.top_k=3", folder=project)
    values = {row["key"]: row for row in json.loads(shown.stdout)["values"]}
    assert values["retrieval.top_k"] == {"key": "retrieval.top_k", "value": 3, "origin": "--set retrieval.top_k"}
    assert values["index.name"]["origin"] == "configs/rag.yaml:6:3"
    assert run("config", "validate", "configs/rag.yaml", "configs/serve.yaml", folder=project).returncode == 0


def test_config_points_at_the_wrong_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("job: rag\nretreival:\n  top_k: 3\n")
    done = run("config", "validate", "bad.yaml", folder=tmp_path)
    assert done.returncode == 1
    assert "bad.yaml:2:1" in done.stderr
    assert "did you mean `retrieval`?" in done.stderr


def test_a_folder_without_a_project_says_how_to_make_one(tmp_path: Path) -> None:
    for arguments in (["config", "show"], ["ingest"], ["up"], ["chat", "hello"]):
        done = run(*arguments, folder=tmp_path)
        assert done.returncode == 1, (arguments, done)
        assert "llmops init" in done.stderr
        assert "Traceback" not in done.stderr


def test_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    run("init", folder=tmp_path)
    good = run("doctor", "--json", folder=tmp_path)
    assert good.returncode == 0, good.stdout
    assert {
        "name": "vector store",
        "verdict": "ok",
        "found": "Chroma, in the index's folder",
        "hint": "",
    } in json.loads(good.stdout)
    (tmp_path / "docs" / "welcome.md").unlink()
    (tmp_path / "docs").rmdir()
    job = tmp_path / "configs" / "rag.yaml"
    job.write_text(job.read_text().replace("\nindex:\n", "\nindex:\n  store:\n    url: http://127.0.0.1:9\n"))
    bad = run("doctor", "--json", folder=tmp_path)
    assert bad.returncode == 1
    failed = [check for check in json.loads(bad.stdout) if check["verdict"] == "fail"]
    assert [check["name"] for check in failed] == ["source docs", "vector store"]
    assert all(check["hint"] for check in failed)
    assert "http://127.0.0.1:9" in failed[1]["found"]


def test_what_the_machine_refuses_is_no_defect_and_leaves_nothing(tmp_path: Path) -> None:
    for arguments, where in (
        (["feedback", "export", "none/thumbs.jsonl"], "none/thumbs.jsonl"),
        (["feedback", "export", "x" * 300], "x" * 300),
        (["init", "/proc/project"], "/proc/project"),
    ):
        done = run(*arguments, folder=tmp_path)
        assert done.returncode == 1, done
        first, second, third = done.stderr.splitlines()
        assert (first[:7], second, third[:6]) == ("error: ", f"  --> {where}", "hint: ")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_went_away_is_no_failure() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "llmops.cli.main", "config", "schema", "rag"]
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(command, env=environment, stdout=pipe, stderr=subprocess.PIPE, check=False, timeout=180)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(shell: str) -> None:
    done = run("completion", shell)
    assert done.returncode == 0
    assert "_LLMOPS_COMPLETE" in done.stdout
    assert run("completion", "tcsh").returncode == 1


def test_the_bare_command_is_a_request_for_help() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "Commands:" in done.stdout
