from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import StatementError
from tests.support.migrations import differences

from llmops.core import sql as sql_module
from llmops.core.errors import ConfigError, ConflictError, IntegrityError, StorageError, UnavailableError
from llmops.core.keys import KEYS, METADATA, Keys
from llmops.core.sql import head, open_sql
from llmops.core.state import StateConfig


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> StateConfig:
    """A state with nothing in it yet."""
    if request.param == "sqlite":
        return StateConfig(dir=tmp_path)
    return StateConfig(dir=tmp_path, sql_url=request.getfixturevalue("empty_database"))


def test_the_tables_are_as_the_code_says(state: StateConfig) -> None:
    with open_sql(state) as sql:
        assert differences(sql, METADATA) == []


def test_the_file_names_agree_with_alembic(state: StateConfig) -> None:
    with open_sql(state) as sql, sql.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == head()


def test_many_may_open_an_empty_state_at_once(state: StateConfig) -> None:
    failures: list[Exception] = []

    def open_it() -> None:
        try:
            open_sql(state).close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


def test_a_transaction_is_whole_or_not_at_all(state: StateConfig) -> None:
    with open_sql(state) as sql:
        with pytest.raises(KeyError), sql.begin() as connection:
            connection.execute(insert(KEYS).values(_row("a")))
            raise KeyError
        with pytest.raises(ConflictError, match="refused a row"), sql.begin() as connection:
            connection.execute(insert(KEYS).values(_row("b")))
            connection.execute(insert(KEYS).values(_row("b")))
        with sql.read() as connection:
            assert connection.execute(select(KEYS)).all() == []


def test_a_reader_has_one_view_whatever_is_written_meanwhile(state: StateConfig) -> None:
    with open_sql(state) as sql:
        with sql.read() as connection:
            assert connection.execute(select(KEYS)).all() == []
            with sql.begin() as other:
                other.execute(insert(KEYS).values(_row("a")))
            assert connection.execute(select(KEYS)).all() == []
        with sql.read() as connection:
            assert len(connection.execute(select(KEYS)).all()) == 1


def test_times_are_utc_and_aware(state: StateConfig) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    with open_sql(state) as sql:
        with sql.begin() as connection:
            connection.execute(insert(KEYS).values(_row("a") | {"created_at": noon}))
        with sql.read() as connection:
            row = connection.execute(select(KEYS)).one()
        assert row.created_at == noon
        assert row.created_at.utcoffset() == timedelta(0)
        assert row.expires_at is None
        with pytest.raises(StatementError, match="needs a time zone"), sql.begin() as connection:
            connection.execute(insert(KEYS).values(_row("b") | {"created_at": datetime(2026, 1, 1)}))  # noqa: DTZ001


def test_two_who_raise_a_number_both_count(state: StateConfig) -> None:
    with open_sql(state) as sql:
        with sql.begin() as connection:
            connection.execute(text("CREATE TABLE counter (n INTEGER NOT NULL)"))
            connection.execute(text("INSERT INTO counter VALUES (0)"))

        def raise_it() -> None:
            for _ in range(10):
                with sql.begin() as connection:
                    connection.execute(text("UPDATE counter SET n = n + 1"))

        threads = [threading.Thread(target=raise_it) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with sql.read() as connection:
            assert connection.execute(text("SELECT n FROM counter")).scalar() == 40


def test_a_state_of_a_newer_version_is_refused(state: StateConfig) -> None:
    with open_sql(state) as sql, sql.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConflictError, match="newer llmops"):
        open_sql(state)


def test_opening_a_migrated_state_imports_no_alembic(tmp_path: Path) -> None:
    open_sql(StateConfig(dir=tmp_path)).close()
    program = (
        "import sys; from pathlib import Path;"
        "from llmops.core.sql import open_sql; from llmops.core.state import StateConfig;"
        f"open_sql(StateConfig(dir=Path({str(tmp_path)!r}))).close(); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_sqlite_keeps_what_it_took(tmp_path: Path) -> None:
    with open_sql(StateConfig(dir=tmp_path)) as sql, sql.read() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_locked_database_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_module, "BUSY_TIMEOUT_S", 0.05)
    with open_sql(StateConfig(dir=tmp_path)) as sql:
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(UnavailableError, match="locked by another process"), sql.begin():
                pass
            with sql.read() as connection:  # a writer stops no reader
                assert connection.execute(select(KEYS)).all() == []
        finally:
            other.close()


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with open_sql(StateConfig(dir=tmp_path)) as sql:
        with sql.read() as connection:
            pages = connection.execute(text("PRAGMA page_count")).scalar()
        with pytest.raises(StorageError, match="cannot write"), sql.begin() as connection:
            connection.execute(text(f"PRAGMA max_page_count = {pages}"))
            for place in range(200):
                connection.execute(insert(KEYS).values(_row(str(place)) | {"groups": ["x" * 1000]}))
        with sql.read() as connection:
            assert connection.execute(select(KEYS)).all() == []


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"something else, and long enough to be looked at" * 100)
    with pytest.raises(IntegrityError, match="damaged"):
        open_sql(StateConfig(dir=tmp_path))


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the state folder"):
        open_sql(StateConfig(dir=tmp_path / "file" / "state"))


@pytest.mark.parametrize("url", ["nonsense", "nosuch://x/y", "sqlite://"])
def test_a_wrong_url_is_said_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        open_sql(StateConfig(dir=tmp_path, sql_url=url))


def test_a_server_that_is_not_there_is_said_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="does not answer") as error:
        open_sql(StateConfig(dir=tmp_path, sql_url=f"postgresql://me:hushhush@/db?host={tmp_path}"))
    assert "hushhush" not in repr(vars(error.value))


def _row(key_id: str) -> dict[str, object]:
    return {
        "key_id": key_id,
        "name": "test",
        "secret_sha256": "0" * 64,
        "scopes": ["serving"],
        "groups": [],
        "created_at": datetime.now(UTC),
        "created_by": "test",
    }


def test_keys_work_the_same_there(state: StateConfig) -> None:
    with open_sql(state) as sql:
        keys = Keys(sql)
        token, key = keys.create("a", scopes=["serving"], groups=["hr"])
        assert keys.verify(token, "serving") == key.principal
        assert keys.list() == [key]


def _open(folder: Path, result: Queue[str]) -> None:
    with open_sql(StateConfig(dir=folder)):
        result.put("open")


def test_processes_may_open_an_empty_state_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["llmops.core.sql", "alembic.command"])
    result: Queue[str] = context.Queue()
    processes = [context.Process(target=_open, args=(tmp_path, result)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [result.get(timeout=180) for _ in processes] == ["open"] * 4
    for process in processes:
        process.join()
    result.close()
