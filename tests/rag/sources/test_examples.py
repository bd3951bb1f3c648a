"""Every example of `configs/sources` runs as it stands, but for its address: that of a real server on loopback."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.buckets import SECRETS, azure_store, google_store, s3_store
from tests.support.documents import docx, pdf, picture, pptx, xlsx
from tests.support.embedder import WordEmbedder
from tests.support.git_repository import GitRepository
from tests.support.upstream import Reply, running_upstream
from tests.support.web_site import web_site

from llmops.core.lake import Lake
from llmops.core.state import StateConfig
from llmops.core.tables import Column, TableSpec
from llmops.rag.config import RagConfig
from llmops.rag.ingest.refresh import Options, Refresh, refresh
from llmops.rag.ingest.status import inspect

CONFIGS = Path(__file__).parents[3] / "configs"
WORD = "zinnober"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def ingested(example: str, here: Path, change: Callable[[dict[str, Any]], object] = lambda source: None) -> Refresh:
    job = yaml.safe_load((CONFIGS / example).read_text(encoding="utf-8"))
    change(job["index"]["sources"][0])
    config = RagConfig(**job, state=StateConfig(dir=here / "state"))
    return refresh(config.index, config.state, Options(embedder=WordEmbedder()))


def told(done: Refresh, here: Path, uri: str) -> dict[str, Any]:
    view = inspect(StateConfig(dir=here / "state"), done.index, uri)
    assert WORD in " ".join(chunk["text"] for chunk in view.chunks).lower()
    return {"acl": view.acl, **view.metadata}


def letter() -> bytes:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "ann@x.org", "bob@x.org", "Paint"
    made.set_content(f"Please order {WORD}.")
    made.add_attachment(f"{WORD} is red".encode(), maintype="text", subtype="plain", filename="paint.txt")
    return bytes(made)


FORMATS: dict[str, Callable[[], bytes]] = {
    "a.pdf": lambda: pdf([f"The {WORD} is red and this page is long enough to be read as a text."]),
    "a.docx": lambda: docx(headings={"Paint": f"Of {WORD}."}, table=[["colour", "price"], [WORD, "3"]]),
    "a.pptx": lambda: pptx({"Paint": [f"Of {WORD}"]}),
    "a.xlsx": lambda: xlsx({"Paint": [["colour", "price"], [WORD, 3], ["blue", 4]]}),
    "a.csv": f"colour,price\n{WORD},3\nblue,4\n".encode,
    "a.html": f"<html><body><main><h1>Paint</h1><p>We sell {WORD}, a red.</p></main></body></html>".encode,
    "a.md": f"# Paint\n\n| colour |\n|---|\n| {WORD} |\n".encode,
    "a.rst": f"Paint\n=====\n\nOf {WORD}.\n".encode,
    "a.jsonl": lambda: json.dumps({"title": "Paint", "text": WORD}).encode() + b"\n",
    "a.ipynb": lambda: json.dumps(
        {"cells": [{"cell_type": "markdown", "metadata": {}, "source": [f"# Of {WORD}"]}], "metadata": {},
         "nbformat": 4, "nbformat_minor": 5}
    ).encode(),
    "a.eml": letter,
    "a.py": f'def mix():\n    """Mix {WORD}."""\n'.encode,
    "a.txt": f"Of {WORD}.".encode,
}  # fmt: skip


def test_a_folder_of_every_format(here: Path) -> None:
    (here / "handbook/paint").mkdir(parents=True)
    for name, made in FORMATS.items():
        (here / "handbook/paint" / name).write_bytes(made())
    done = ingested("sources/folder.yaml", here)
    assert (done.quarantined, done.head.documents) == ((), len(FORMATS))
    for name in FORMATS:
        assert told(done, here, f"handbook/paint/{name}")["team"] == "paint"


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")
def test_scans(here: Path) -> None:
    (here / "papers").mkdir()
    (here / "papers/scan.png").write_bytes(picture("ZINNOBER IS RED"))
    told(done := ingested("rag-scans.yaml", here), here, "papers/scan.png")
    assert done.quarantined == ()


def test_a_git_branch(here: Path) -> None:
    repository = GitRepository(here / "repository")
    repository.write(**{"docs__a": WORD, "docs__ACL.yaml": "- {path: '**', groups: [staff]}\n"})
    done = ingested("sources/git.yaml", here, lambda source: source.update(git=str(repository.folder)))
    assert told(done, here, f"{repository.folder}#docs/a.md")["acl"] == ("staff",)


def test_web_pages_and_a_sitemap(here: Path) -> None:
    with web_site() as site:
        page = site.write("/terms.html", f"<h1>Terms</h1><p>Of {WORD}, a red.</p>", media_type="text/html")
        done = ingested("sources/web.yaml", here, lambda source: source.update(urls=[page], private=True))
        told(done, here, page)
        help_page = site.write("/help/paint/a.md", f"# Paint\n\nOf {WORD}.")
        sitemap = site.sitemap("/help/paint/a.md", "/terms.html")
        done = ingested("sources/sitemap.yaml", here, lambda source: source.update(sitemap=sitemap, private=True))
        assert (told(done, here, help_page)["topic"], done.head.documents) == ("paint", 1)


@pytest.mark.parametrize(("example", "opened"), [("s3", s3_store), ("google", google_store), ("azure", azure_store)])
def test_a_bucket(here: Path, example: str, opened: Any) -> None:
    with opened() as store:
        store.put("handbook/team/a.md", f"Of {WORD}.".encode())
        done = ingested(f"sources/{example}.yaml", here, lambda source: source["options"].update(store.options))
        told(done, here, f"{store.scheme}://team-docs/handbook/team/a.md")


@pytest.fixture
def wiki(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WIKI_URL", f"sqlite:///{here / 'wiki.db'}")
    database = sqlite3.connect(here / "wiki.db", isolation_level=None)
    database.execute("CREATE TABLE pages (id INTEGER PRIMARY KEY, title TEXT, body TEXT, groups TEXT, year INTEGER)")
    database.execute("INSERT INTO pages VALUES (1, 'Paint', ?, 'staff', 2026)", (f"Of {WORD}.",))
    yield
    database.close()


def test_rows_of_a_query_and_of_a_table(here: Path, wiki: None) -> None:
    done = ingested("sources/sql.yaml", here)
    facts = told(done, here, "sql:wiki/1")
    assert (facts["acl"], facts["year"]) == (("staff",), 2026)
    lake = Lake(StateConfig(dir=here / "state"))
    columns = tuple(Column(name, "string") for name in ("id", "body", "team"))
    lake.declare("dev.support.articles", TableSpec("articles", columns))
    lake.append("dev.support.articles", [{"id": "a", "body": f"Of {WORD}.", "team": "ops"}])
    done = ingested("sources/table.yaml", here)
    assert told(done, here, "table:dev.support.articles/a")["team"] == "ops"


def test_facts_of_path_heading_and_model(here: Path) -> None:
    for team in ("sales/2024", "board"):
        (here / "reports" / team).mkdir(parents=True)
        (here / "reports" / team / "q3.md").write_text(f"# Report of Q3\n\nOf {WORD}.")
    with running_upstream() as upstream:
        upstream.answer = lambda seen: Reply((json.dumps({"facts": {"kind": "report", "customers": ["Ann"]}}),))
        job = yaml.safe_load((CONFIGS / "rag-facts.yaml").read_text(encoding="utf-8"))
        job["index"]["facts"]["llm"]["url"] = upstream.url
        config = RagConfig(**job, state=StateConfig(dir=here / "state"))
        done = refresh(config.index, config.state, Options(embedder=WordEmbedder()))
    facts = told(done, here, "reports/sales/2024/q3.md")
    assert {name: facts[name] for name in ("team", "year", "quarter", "kind", "customers")} == {
        "team": "sales", "year": 2024, "quarter": "Q3", "kind": "report", "customers": ["Ann"],
    }  # fmt: skip
    assert done.facts.asked == 1, "one text, one question"


def test_every_example_is_run_here() -> None:
    ran = {"folder", "git", "web", "sitemap", "s3", "google", "azure", "sql", "table"}
    assert {path.stem for path in (CONFIGS / "sources").glob("*.yaml")} == ran
