"""Remote sources through a whole refresh: what is gone goes, what is down stays, who may read is as the source says."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.support.embedder import WordEmbedder
from tests.support.git_repository import GitRepository
from tests.support.indexes import NAME, Workplace
from tests.support.serving import eventually
from tests.support.web_site import Page, web_site

from llmops.core.errors import ConflictError, UnavailableError
from llmops.core.state import StateConfig
from llmops.rag.config import FolderSource, GitSource, IndexConfig, Source, WebSource
from llmops.rag.ingest.refresh import Options, Refresh, refresh
from llmops.rag.ingest.status import inspect
from llmops.rag.manifest import Manifest


class Team:
    """One index over given sources."""

    def __init__(self, folder: Path) -> None:
        self.state = StateConfig(dir=folder / "state")
        self.embedder = WordEmbedder()

    def refresh(self, *sources: Source, **options: bool) -> Refresh:
        config = IndexConfig(name=NAME, sources=sources)
        return refresh(config, self.state, Options(embedder=self.embedder, **options))

    def documents(self) -> dict[str, str]:
        """uri -> groups, as the index has them."""
        manifest = Manifest.open(self.state, NAME)
        try:
            return dict(manifest.query("SELECT uri, acl FROM documents"))
        finally:
            manifest.close()


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


def test_a_document_that_leaves_its_branch_leaves_the_index(team: Team, tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "handbook")
    repository.write(pay="# Pay\n\nPaid monthly.", holidays="# Holidays\n\nThirty days.")
    source = GitSource(git=str(repository.folder))
    assert team.refresh(source).added == 2
    (repository.folder / "pay.md").unlink()
    (repository.folder / "holidays.md").rename(repository.folder / "leave.md")
    repository.commit()
    team.embedder.texts.clear()
    done = team.refresh(source)
    assert (done.removed, done.renamed, done.embedded, team.embedder.texts) == (1, 1, 0, [])
    assert set(team.documents()) == {f"{repository.folder}#leave.md"}
    view = inspect(team.state, NAME, f"{repository.folder}#leave.md")
    assert view.chunks


def test_a_change_of_readers_alone_embeds_nothing(team: Team, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "pay.md").write_text("# Pay\n\nPaid monthly.")
    rules = folder / "ACL.yaml"
    rules.write_text("- {path: pay.md, groups: [hr]}")
    source = FolderSource(path=str(folder), acl_file="ACL.yaml", acl=("staff",))
    team.refresh(source)
    assert team.documents() == {str(folder / "pay.md"): '["hr"]'}
    team.embedder.texts.clear()
    rules.write_text("- {path: pay.md, groups: [board]}")
    done = team.refresh(source)
    assert (done.changed, done.embedded, team.embedder.texts) == (1, 0, [])
    assert team.documents() == {str(folder / "pay.md"): '["board"]'}


def test_a_site_that_is_down_leaves_the_index_as_it_is(team: Team) -> None:
    with web_site() as site:
        pages = [site.write(f"/{n}.md", f"# Page {n}\n\nabout {n}") for n in range(25)]
        source = WebSource(urls=tuple(pages), private=True)
        head = team.refresh(source).head
        site.pages = {path: Page(status=503) for path in site.pages}
        site.pages["/robots.txt"] = Page(status=404)
        with pytest.raises(UnavailableError):
            team.refresh(source)
    with pytest.raises(UnavailableError):  # nobody listens any more
        team.refresh(source)
    manifest = Manifest.open(team.state, NAME)
    (_, name) = manifest.generations()[0]
    assert manifest.head(1) == head
    assert name == head.generation
    manifest.close()


def test_most_of_an_index_goes_only_where_that_is_said(tmp_path: Path) -> None:
    place = Workplace.at(tmp_path)
    for number in range(30):
        place.write(f"d{number}.md", f"# Title {number}\n\nalpha {number}")
    head = place.refresh().head
    for number in range(5, 30):
        (place.docs / f"d{number}.md").unlink()
    with pytest.raises(ConflictError, match="would remove 25 of 30 documents") as refused:
        place.refresh()
    assert "--allow-mass-delete" in str(refused.value.hint)
    manifest = Manifest.open(place.state, NAME)
    assert manifest.head(1) == head
    manifest.close()
    assert place.refresh(allow_mass_delete=True).removed == 25


_REFRESH = """
import sys
from pathlib import Path
from llmops.core.state import StateConfig
from llmops.rag.config import WebSource
from llmops.rag.sources import documents
urls = tuple(sys.argv[2:])
for one in documents(WebSource(urls=urls, private=True, pause_s=0.01), StateConfig(dir=Path(sys.argv[1]))):
    print(one.uri, flush=True)
"""


@pytest.mark.kill
def test_a_killed_fetch_goes_on_where_it_was(tmp_path: Path) -> None:
    with web_site() as site:
        urls = [site.write(f"/{n}.md", f"page {n}") for n in range(40)]
        command = [sys.executable, "-c", _REFRESH, str(tmp_path / "state"), *urls]
        reached, go_on = threading.Event(), threading.Event()

        def hold(_path: str) -> None:
            if len(site.asked) == 15:
                reached.set()
                go_on.wait(60)

        site.before = hold
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        assert reached.wait(60)
        running.send_signal(signal.SIGKILL)
        running.wait()
        site.before = lambda path: None
        go_on.set()
        eventually(lambda: len(site.asked) == 16)  # the one that was held: its answer went to nobody
        (ledger,) = (tmp_path / "state" / "sources").glob("*/ledger.db")
        database = sqlite3.connect(ledger)
        kept = database.execute("SELECT count(*) FROM documents").fetchone()[0]
        database.close()
        assert 0 < kept < 40
        site.asked.clear()
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
        assert done.stdout.split() == sorted(urls)
        statuses = list(site.statuses().values())
        assert statuses.count(304) >= kept
        assert statuses.count(200) + statuses.count(304) == 40
        files = list(ledger.parent.glob("files/*"))
        assert sorted(file.read_text() for file in files) == sorted(f"page {n}" for n in range(40))
