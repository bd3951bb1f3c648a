"""Rows that are documents: of a database, and of a table of the lake."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from llmops.core.errors import ConfigError, NotFoundError, UnavailableError
from llmops.core.lake import Lake
from llmops.core.state import StateConfig
from llmops.core.tables import Column, TableSpec
from llmops.rag.config import QuerySource, Source, TableSource
from llmops.rag.document import Rejected, SourceItem
from llmops.rag.sources import documents


@pytest.fixture
def state(tmp_path: Path) -> StateConfig:
    return StateConfig(dir=tmp_path / "state")


@pytest.fixture
def wiki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sqlite3.Connection:
    path = tmp_path / "wiki.db"
    monkeypatch.setenv("WIKI_URL", f"sqlite:///{path}")
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("CREATE TABLE pages (id INTEGER PRIMARY KEY, title TEXT, body TEXT, groups TEXT, year INTEGER)")
    database.executemany(
        "INSERT INTO pages VALUES (?, ?, ?, ?, ?)",
        [
            (1, "Holidays", "30 days.", "everyone", 2026),
            (2, "Pay", "Paid monthly.", "hr, board", 2025),
            (3, "X", "x", "", 1),
        ],
    )
    return database


def source(**changes: object) -> QuerySource:
    settings = {
        "query": "SELECT * FROM pages",
        "database": "env:WIKI_URL",
        "name": "wiki",
        "key": "id",
        "title": "title",
        "text": ("body",),
        "facts": ("year",),
        "acl_column": "groups",
        **changes,
    }
    return QuerySource(**settings)


def items(of: Source, state: StateConfig) -> dict[str, SourceItem]:
    return {item.uri: item for item in documents(of, state) if isinstance(item, SourceItem)}


def test_rows_become_documents_with_their_own_readers_and_facts(wiki: sqlite3.Connection, state: StateConfig) -> None:
    found = items(source(), state)
    assert Path(found["sql:wiki/1"].path).read_text() == "# Holidays\n\n30 days.\n"
    assert {uri: item.acl for uri, item in found.items()} == {
        "sql:wiki/1": ("everyone",),
        "sql:wiki/2": ("hr", "board"),
        "sql:wiki/3": (),  # a row that names no group is nobody's
    }
    assert found["sql:wiki/2"].metadata == {"year": 2025}


def test_only_what_changed_is_written_again(wiki: sqlite3.Connection, state: StateConfig) -> None:
    before = items(source(), state)
    wiki.execute("UPDATE pages SET body = '31 days.' WHERE id = 1")
    wiki.execute("UPDATE pages SET groups = 'board' WHERE id = 2")
    wiki.execute("DELETE FROM pages WHERE id = 3")
    after = items(source(), state)
    assert set(after) == {"sql:wiki/1", "sql:wiki/2"}
    assert Path(after["sql:wiki/1"].path).read_text().endswith("31 days.\n")
    same = before["sql:wiki/2"]
    assert (after["sql:wiki/2"].path, after["sql:wiki/2"].mtime_ns) == (same.path, same.mtime_ns)
    assert after["sql:wiki/2"].acl == ("board",)


def test_a_failing_query_changes_nothing_and_shows_no_password(
    wiki: sqlite3.Connection, state: StateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(items(source(), state)) == 3
    with pytest.raises(UnavailableError, match="no such table"):
        items(source(query="SELECT * FROM nowhere"), state)
    with pytest.raises(UnavailableError, match=r"readonly|read-only|query_only"):
        items(source(query="DELETE FROM pages RETURNING *"), state)
    assert wiki.execute("SELECT count(*) FROM pages").fetchone() == (3,)
    with pytest.raises(ConfigError, match="no column `titel`"):
        items(source(title="titel"), state)
    monkeypatch.setenv("WIKI_URL", "postgresql+psycopg://u:s3cret@127.0.0.1:1/x")
    with pytest.raises(UnavailableError) as failed:
        items(source(), state)
    assert "s3cret" not in str(failed.value)
    monkeypatch.setenv("WIKI_URL", "no url: s3cret")
    with pytest.raises(ConfigError) as refused:
        items(source(), state)
    assert "s3cret" not in f"{refused.value} {refused.value.hint}"


def test_a_table_s_rows_are_read_only_where_its_version_moved(
    state: StateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(state)
    columns = (Column("id", "string", required=True), Column("body", "string"), Column("team", "string"))
    lake.declare("dev.wiki.pages", TableSpec("pages", columns))
    lake.append(
        "dev.wiki.pages", [{"id": "a/1", "body": "alpha", "team": "ops"}, {"id": "b", "body": "beta", "team": "hr"}]
    )
    source = TableSource(table="wiki.pages", key="id", text=("body",), where="team <> 'hr'")
    assert set(items(source, state)) == {"table:dev.wiki.pages/a%2F1"}
    reads = []
    real = Lake.query_arrow
    monkeypatch.setattr(Lake, "query_arrow", lambda self, *rest: reads.append(rest) or real(self, *rest))
    items(source, state)
    assert reads == []
    lake.append("dev.wiki.pages", [{"id": "c", "body": "gamma", "team": "ops"}])
    assert set(items(source, state)) == {"table:dev.wiki.pages/a%2F1", "table:dev.wiki.pages/c"}
    assert len(reads) == 1
    with pytest.raises(NotFoundError, match="no table"):
        items(TableSource(table="wiki.nowhere", key="id", text=("body",)), state)


def test_a_table_that_is_closed_to_most_is_closed_though_it_did_not_move(state: StateConfig) -> None:
    lake = Lake(state)
    lake.declare(
        "dev.wiki.pages", TableSpec("pages", (Column("id", "string", required=True), Column("body", "string")))
    )
    lake.append("dev.wiki.pages", [{"id": "a", "body": "alpha"}])

    def labels(**about: object) -> list[tuple[object, object]]:
        found = items(TableSource(table="wiki.pages", key="id", text=("body",), **about), state)
        return [(item.acl, dict(item.metadata)) for item in found.values()]

    assert labels(metadata={"team": "ops"}) == [(("everyone",), {"team": "ops"})]
    assert labels(acl=("hr",)) == [(("hr",), {})]


def test_a_table_s_copies_may_be_deleted(state: StateConfig) -> None:
    lake = Lake(state)
    lake.declare(
        "dev.wiki.pages", TableSpec("pages", (Column("id", "string", required=True), Column("body", "string")))
    )
    lake.append("dev.wiki.pages", [{"id": "a", "body": "alpha"}])
    source = TableSource(table="wiki.pages", key="id", text=("body",))
    (item,) = items(source, state).values()
    Path(item.path).unlink()
    (again,) = items(source, state).values()
    assert Path(again.path).read_text() == "alpha\n"


def test_a_row_that_was_emptied_says_nothing_any_more(wiki: sqlite3.Connection, state: StateConfig) -> None:
    blank = source(title=None)
    assert "sql:wiki/2" in items(blank, state)
    wiki.execute("UPDATE pages SET body = NULL WHERE id = 2")
    found = {one.uri: one for one in documents(blank, state)}
    assert isinstance(found["sql:wiki/2"], Rejected)
    assert found["sql:wiki/2"].code == "empty"
    assert not [path for path in state.root.rglob("*.md") if "monthly" in path.read_text()]


def test_a_fact_that_was_taken_back_is_none(wiki: sqlite3.Connection, state: StateConfig) -> None:
    assert items(source(), state)["sql:wiki/1"].metadata == {"year": 2026}
    wiki.execute("UPDATE pages SET year = NULL WHERE id = 1")
    assert items(source(), state)["sql:wiki/1"].metadata == {}
