"""One remote source, several indexes and plans in several processes: one copy, which serves each as it was told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.embedder import WordEmbedder
from tests.support.git_repository import GitRepository
from tests.support.scans import after_the_scan

from llmops.core.state import StateConfig
from llmops.rag.config import GitSource, IndexConfig
from llmops.rag.ingest.erasure import erase_copies
from llmops.rag.ingest.refresh import Options, Refresh, refresh
from llmops.rag.manifest import Manifest

ANOTHER = """
import json, sys
from pathlib import Path
from tests.support.embedder import WordEmbedder
from llmops.core.state import StateConfig
from llmops.rag.config import GitSource, IndexConfig
from llmops.rag.ingest.forecast import forecast
from llmops.rag.ingest.refresh import Options, refresh
do, state, git, index, group = sys.argv[1:]
config = IndexConfig(name=index, sources=(GitSource(git=git, acl=(group,)),))
options = Options(embedder=WordEmbedder(), allow_mass_delete=True)
done = {"refresh": refresh, "forecast": forecast}[do](config, StateConfig(dir=Path(state)), options)
print(json.dumps([len(done.quarantined), done.head.documents if do == "refresh" else None]))
"""
NAMES = ("a", "b", "c")


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    repository = GitRepository(tmp_path / "handbook")
    repository.write(**{name: f"# {name}\n\nthe first text of {name}" for name in NAMES})
    return repository


@pytest.fixture
def state(tmp_path: Path) -> StateConfig:
    return StateConfig(dir=tmp_path / "state")


def started(do: str, state: StateConfig, repository: GitRepository, index: str, group: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ANOTHER, do, str(state.dir), str(repository.folder), index, group]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> list[int]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    told: list[int] = json.loads(out)
    return told


def refreshed(state: StateConfig, repository: GitRepository, index: str, group: str = "staff") -> Refresh:
    config = IndexConfig(name=index, sources=(GitSource(git=str(repository.folder), acl=(group,)),))
    return refresh(config, state, Options(embedder=WordEmbedder(), allow_mass_delete=True))


def held(state: StateConfig, index: str) -> dict[str, tuple[str, str]]:
    """Of each document of an index: its groups, and its chunks' texts."""
    manifest = Manifest.open(state, index)
    rows = manifest.query("SELECT d.uri, d.acl, c.text FROM documents d JOIN chunks c ON c.document = d.id")
    manifest.close()
    return {uri.partition("#")[2]: (acl, text) for uri, acl, text in rows}


def copies(state: StateConfig) -> list[str]:
    return sorted(path.read_text() for path in (state.root / "sources").glob("*/files/*"))


@pytest.mark.parametrize("do", ["refresh", "forecast"])
def test_what_another_process_refreshes_does_not_take_away_what_is_being_read(
    repository: GitRepository, state: StateConfig, monkeypatch: pytest.MonkeyPatch, do: str
) -> None:
    def another() -> None:
        (repository.folder / "a.md").unlink()
        repository.write(b="# b\n\nthe second text of b")
        assert answer(started(do, state, repository, "dev.docs.other", "board"))[0] == 0

    after_the_scan(monkeypatch, another)
    done = refreshed(state, repository, "dev.docs.index")
    assert (done.quarantined, done.added) == ((), 3)
    told = {name: (groups, text.rpartition("\n")[2]) for name, (groups, text) in held(state, "dev.docs.index").items()}
    assert told == {f"{name}.md": ('["staff"]', f"the first text of {name}") for name in NAMES}
    monkeypatch.undo()
    again = refreshed(state, repository, "dev.docs.index")
    assert (again.changed, again.removed, again.unchanged) == (1, 1, 1)
    assert len(copies(state)) == 2  # nobody reads the old ones any more
    if do == "refresh":
        assert {groups for groups, _ in held(state, "dev.docs.other").values()} == {'["board"]'}


def test_what_is_forgotten_goes_at_once_with_its_older_contents_whoever_reads_it(
    repository: GitRepository, state: StateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgotten() -> None:
        repository.write(b="# b\n\nthe second text of b")
        answer(started("refresh", state, repository, "dev.docs.other", "board"))
        assert sum("text of b" in text for text in copies(state)) == 2
        assert len(erase_copies(state, [f"{repository.folder}#b.md"])) == 1
        assert [text for text in copies(state) if "text of b" in text] == []

    after_the_scan(monkeypatch, forgotten)
    done = refreshed(state, repository, "dev.docs.index")
    assert [(one.uri.partition("#")[2], one.code) for one in done.quarantined] == [("b.md", "unreadable")]


def test_two_processes_that_begin_at_once_fill_one_copy(repository: GitRepository, state: StateConfig) -> None:
    groups = {"dev.docs.index": "staff", "dev.docs.other": "board"}
    running = [started("refresh", state, repository, index, group) for index, group in groups.items()]
    assert [answer(process) for process in running] == [[0, 3], [0, 3]]
    assert len(copies(state)) == 3
    for index, group in groups.items():
        assert {acl for acl, _ in held(state, index).values()} == {json.dumps([group])}
