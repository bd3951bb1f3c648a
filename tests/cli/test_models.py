"""`llmops models` as people start it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.registry_processes import CHAT, passing
from tests.support.registry_rows import seed

from llmops.cli import main as entry
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.registry import Kind, aliases, evidence
from llmops.registry.aliases import Move


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated: Path) -> Path:
    """A working folder whose registry holds a chain with a champion, and an index."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(migrated, StateConfig().root)
    with open_sql(StateConfig()) as sql:
        versions = seed(sql, str(CHAT), 2)
        seed(sql, "dev.docs.index", 1, Kind.INDEX)
        with sql.begin() as connection:
            proof = evidence.save(connection, passing(versions[0]))
            aliases.move(connection, [Move(CHAT, "champion", 1, None, proof)], actor="tester")
    return tmp_path


def models(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = entry.run(["models", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = models(capsys, "list", "--json")
    assert code == 0
    assert [(a["name"], a["kind"], a["versions"], a["aliases"]) for a in json.loads(out)] == [
        ("dev.docs.chat", "chain", 2, {"champion": 1}),
        ("dev.docs.index", "index", 1, {}),
    ]
    _, out, _ = models(capsys, "list", "--kind", "chain")
    assert [line.split("\t")[:5] for line in out.splitlines()] == [
        ["name", "kind", "versions", "latest", "aliases"],
        ["dev.docs.chat", "chain", "2", "2", "champion 1"],
    ]
    _, out, _ = models(capsys, "list", "--versions", "--json")
    assert [(v["name"], v["version"], v["aliases"]) for v in json.loads(out)] == [
        ("dev.docs.chat", 2, []),
        ("dev.docs.chat", 1, ["champion"]),
        ("dev.docs.index", 1, []),
    ]
    assert models(capsys, "list", "--kind", "prompt") == (0, "", "no prompt yet\n")


def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = models(capsys, "show", "dev.docs.chat@champion", "--json")
    shown = json.loads(out)
    assert (shown["version"], shown["aliases"], shown["params"]) == (1, ["champion"], {"number": 1})
    assert [(record["gate"], record["verdict"]) for record in shown["evidence"]] == [("compare", "pass")]
    _, out, err = models(capsys, "show", "dev.docs.chat")
    assert [line.split("\t")[0] for line in out.splitlines()] == ["version", "dev.docs.chat/2", "dev.docs.chat/1"]
    assert "models show dev.docs.chat/2" in err
    _, out, _ = models(capsys, "show", "dev.docs.chat/1")
    assert "aliases\tchampion" in out
    assert "evidence compare\tpass" in out
    _, out, _ = models(capsys, "show", "dev.docs.chat", "--json")
    assert [version["version"] for version in json.loads(out)["history"]] == [2, 1]


def test_history(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = models(capsys, "history", "dev.docs.chat", "--json")
    told = [(entry["what"], entry["version"], entry["by"]) for entry in json.loads(out)]
    assert ("champion (was nobody)", 1, "tester") in told
    assert told[-1][0] == "registered"
    _, out, err = models(capsys, "history", "dev.docs.index", "--alias", "champion")
    assert (out, err) == ("", "nothing of this kind happened\n")


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("dev.docs.chat@champon", "did you mean `champion`?"),
        ("dev.docs.cht", "did you mean `dev.docs.chat`?"),
        ("dev.docs.chat/7", "its latest is dev.docs.chat/2"),
        ("chat", "not a three-level name"),
    ],
)
def test_a_wrong_name_gets_the_nearest_right_one(
    folder: Path, capsys: pytest.CaptureFixture[str], ref: str, told: str
) -> None:
    code, out, err = models(capsys, "show", ref)
    assert (code, out) == (1, "")
    assert told in err


def test_looking_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert models(capsys, "list", "--json") == (0, "[]\n", "")
    assert "llmops ingest" in models(capsys, "list")[2]
    code, _, err = models(capsys, "show", "dev.docs.chat")
    assert code == 1
    assert "llmops ingest" in err
    assert list(tmp_path.iterdir()) == []


def test_reading_imports_no_mlflow(folder: Path) -> None:
    program = (
        "import sys; from llmops.cli.main import run; code = run(['models', 'list'])\n"
        "heavy = sorted({'mlflow', 'alembic', 'torch', 'pandas'} & set(sys.modules)); sys.exit(code or len(heavy))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == 0, done.stderr
