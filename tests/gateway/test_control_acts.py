"""Every act on keys and configuration is on record before it is done, and is not done where it cannot be."""

from __future__ import annotations

import logging
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event, select
from tests.support.control import GUARD, Control, config_of, running_control

from llmops.core import sql as core_sql
from llmops.core.errors import DeniedError, LlmopsError, StorageError, UnavailableError
from llmops.core.identity import LOCAL, Principal
from llmops.core.keys import KEYS, Keys
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig
from llmops.gateway.control.keys import ADMIN, VirtualKeys, Wish
from llmops.gateway.control.snapshot import Publisher
from llmops.gateway.control.tables import KEY_POLICIES
from llmops.registry.access import EVERYTHING, Grants, Privilege
from llmops.registry.audit import Entry, verify
from llmops.registry.audit.tables import log
from llmops.registry.authority import Authority

SECRET = "sk-proj-0123456789abcdefghij"


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    with running_control(tmp_path_factory.mktemp("control")) as started:
        yield started


@pytest.fixture
def state(tmp_path: Path) -> StateConfig:
    return StateConfig(dir=tmp_path / "state")


@contextmanager
def at(state: StateConfig) -> Iterator[tuple[Sql, Authority]]:
    with open_sql(state) as sql, Authority.over(sql, state, LOCAL, "gateway") as authority:
        yield sql, authority


def rows(sql: Sql, about: str) -> list[Entry]:
    with sql.read() as connection:
        return [Entry(*row) for row in connection.execute(select(log).where(log.c.about == about).order_by(log.c.seq))]


def test_making_and_ending_a_key_is_on_record_with_who_and_where_from(control: Control) -> None:
    office = control.office
    token, operator = Keys(office.sql).create("ann's", scopes=[ADMIN])
    with control.client(headers={"authorization": f"Bearer {token}", "user-agent": "curl/8"}) as client:
        wish = {"name": f"app {SECRET}", "routes": ["fast"], "budgets": ["30/month"], "tags": {"note": token}}
        made = client.post("/api/keys", json={**wish, "requests_per_minute": 60, "team": "search"}).json()
        key_id = made["key_id"]
        assert client.delete(f"/api/keys/{key_id}").status_code == 200
        assert client.delete("/api/keys/0000000000000000").status_code == 404
    create, created, revoke, revoked = rows(office.sql, f"key:{key_id}")
    assert [one.phase for one in (create, created, revoke, revoked)] == ["intent", "done", "intent", "done"]
    assert {one.actor for one in (create, created, revoke, revoked)} == {operator.principal.id}
    assert {(one.service_name, one.source_ip_address, one.user_agent) for one in (create, revoked)} == {
        ("gateway", "127.0.0.1", "curl/8")
    }
    assert len({create.request_id, created.request_id, revoke.request_id, None}) == 3
    told = create.as_json()["request_params"]
    assert (told["team"], told["routes"], told["limits"]) == ("search", ["fast"], {"requests_per_minute": 60})
    assert told["budgets"] == [[30_000_000_000, "month"]]
    assert told["tags"] == {"note": "[redacted]"}
    assert [one.phase for one in rows(office.sql, "key:0000000000000000")] == ["intent", "failed"]
    assert made["created_by"] == operator.principal.id
    report = verify(office.sql, control.config.state)
    assert (report.problems, report.warnings) == ([], [])
    with office.sql.read() as connection:
        hashed = connection.execute(select(KEYS.c.secret_sha256).where(KEYS.c.key_id == key_id)).scalar_one()
        everything = repr(connection.execute(select(log)).all())
    for secret in (made["token"], made["token"][-43:], hashed, token, token[-43:], SECRET):
        assert secret not in everything


def test_pages_and_reload_go_on_record_too(control: Control) -> None:
    with control.client(headers={"origin": control.url}) as client:
        assert client.post("/keys", data={"name": "by form", "routes": "fast"}).status_code == 200
        key = next(one for one in control.office.keys.list() if one.key.name == "by form").key
        assert client.post(f"/keys/{key.key_id}/revoke", follow_redirects=False).status_code == 303
        assert client.post("/reload").status_code == 409
    acts = [(one.action_name, one.phase) for one in rows(control.office.sql, f"key:{key.key_id}")]
    assert acts == [("create", "intent"), ("create", "done"), ("revoke", "intent"), ("revoke", "done")]
    last = rows(control.office.sql, "gateway")[-2:]
    assert [(one.action_name, one.phase, one.actor) for one in last] == [
        ("reload", "intent", "local"),
        ("reload", "failed", "local"),
    ]


def test_who_no_longer_manages_everything_makes_no_keys(tmp_path: Path) -> None:
    with running_control(tmp_path) as control, control.client(headers=GUARD) as client:
        office = control.office
        token, _ = Keys(office.sql).create("operator", scopes=[ADMIN])
        made = client.post("/api/keys", json={"name": "before any rule"}).json()
        Grants(office.sql, office.authority).own(EVERYTHING, "group:platform")
        answers: list[httpx.Response] = [
            client.post("/api/keys", json={"name": "a"}),
            client.delete(f"/api/keys/{made['key_id']}"),
            client.post("/api/reload"),
        ]
        assert [answer.status_code for answer in answers] == [403, 403, 403]
        assert Privilege.MANAGE.value in answers[0].json()["error"]["message"]
        assert [one.key.name for one in office.keys.list()] == ["before any rule"]
        assert office.keys.list()[0].state == "active"
        as_operator = {"authorization": f"Bearer {token}"}
        assert client.post("/api/keys", json={"name": "a"}, headers=as_operator).status_code == 201
        with office.sql.read() as connection:
            refused = connection.execute(select(log.c.action_name).where(log.c.phase == "denied")).scalars().all()
        assert refused == ["create", "revoke", "reload"]
        assert verify(office.sql, control.config.state).problems == []


# --- where it cannot go on record -----------------------------------------------------------------------------------


def test_a_locked_database_refuses_and_leaves_everything(state: StateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(state.dir.parent)
    with at(state) as (sql, by):
        _, made = VirtualKeys(sql).create(Wish("first"), config, by)
    before = _tables(state)
    monkeypatch.setattr(core_sql, "BUSY_TIMEOUT_S", 0.05)
    with at(state) as (sql, by):
        keys = VirtualKeys(sql)
        other = sqlite3.connect(state.dir / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(UnavailableError, match="locked"):
                keys.create(Wish("second"), config, by)
            with pytest.raises(UnavailableError, match="locked"):
                keys.revoke(made.key.key_id, by)
        finally:
            other.close()
        assert _tables(state) == before
        assert keys.revoke(made.key.key_id, by).state == "revoked"  # the disturbance is over
        assert verify(sql, state).problems == []


@pytest.mark.parametrize("act", ["create", "revoke"])
def test_a_disk_that_is_full_at_any_moment_leaves_the_act_undone_or_done(state: StateConfig, act: str) -> None:
    """After so many more pages the disk is full: in the intent, in the effect, in the outcome."""
    config = config_of(state.dir.parent)
    ann = Principal("ann", "person", frozenset(f"group{number:0100}" for number in range(60)))  # rows beyond a page
    with at(state) as (sql, by):
        made = [VirtualKeys(sql).create(Wish(f"{place}"), config, by)[1].key.key_id for place in range(12)]
    refused = 0
    for spare, key_id in enumerate(made):
        before = _tables(state)
        with at(state) as (sql, by), _disk_of(sql, spare):
            by = replace(by, principal=ann)  # noqa: PLW2901 - the same, acting for her
            try:
                if act == "create":
                    VirtualKeys(sql).create(Wish("x", tags={f"t{n}": "y" * 200 for n in range(30)}), config, by)
                else:
                    VirtualKeys(sql).revoke(key_id, by)
            except StorageError:
                refused += 1
                assert _tables(state) == before
            else:
                assert _tables(state) != before
        with at(state) as (sql, by):  # room again
            assert verify(sql, state).problems == []
            VirtualKeys(sql).create(Wish("after"), config, by)
            report = verify(sql, state)
            assert (report.problems, report.warnings) == ([], [])
    assert 0 < refused < len(made)


def test_a_process_killed_in_the_act_leaves_no_key_and_the_next_says_so(state: StateConfig) -> None:
    with open_sql(state):
        pass
    program = f"""
import os, signal
from pathlib import Path
from tests.gateway.test_control_acts import at
from tests.support.control import config_of
from llmops.core.state import StateConfig
from llmops.gateway.control.keys import VirtualKeys, Wish
from llmops.registry.audit import Acting
Acting.concluded = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
state = StateConfig(dir=Path({str(state.dir)!r}))
with at(state) as (sql, by):
    VirtualKeys(sql).create(Wish("never"), config_of(state.dir.parent), by)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[2], timeout=120)
    assert ended.returncode == -signal.SIGKILL
    assert _tables(state) == ([], [])
    with at(state) as (sql, by):
        VirtualKeys(sql).create(Wish("next"), config_of(state.dir.parent), by)
        with sql.read() as connection:
            phases = connection.execute(select(log.c.phase).order_by(log.c.seq)).scalars().all()
        assert phases == ["intent", "abandoned", "intent", "done"]
        assert verify(sql, state).problems == []


def test_a_folder_that_takes_no_keys_costs_nobody_their_token(state: StateConfig, caplog: Any) -> None:
    folder = state.dir.parent / "gateway"
    folder.write_text("a file where the folder should be")
    with at(state) as (sql, by):
        token, _ = VirtualKeys(sql).create(Wish("app"), config_of(state.dir.parent), by)
        publisher = Publisher(sql, folder)
        with caplog.at_level(logging.ERROR):
            publisher.attempt()
            publisher.attempt()
        assert len(caplog.records) == 1
        assert publisher.problem
        assert token not in caplog.text
        with pytest.raises((OSError, LlmopsError)):
            publisher.publish()
        folder.unlink()
        publisher.attempt()
        assert not publisher.problem


def test_acting_needs_nothing_that_the_small_install_lacks() -> None:
    heavy = ("mlflow", "torch", "chromadb", "pandas", "sklearn", "numpy", "transformers")
    program = f"import sys, llmops.gateway.control.keys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_a_key_that_is_no_operator_s_is_refused_before_it_acts(control: Control) -> None:
    token, _ = Keys(control.office.sql).create("caller", scopes=["gateway"])
    with control.client(headers={"authorization": f"Bearer {token}"}) as client:
        assert client.post("/api/keys", json={"name": "mine"}).status_code == DeniedError.http_status


def _tables(state: StateConfig) -> tuple[list[Any], list[Any]]:
    """The keys and their policies, as another process sees them."""
    with open_sql(state) as sql, sql.read() as connection:
        keys = connection.execute(select(KEYS).order_by(KEYS.c.key_id)).all()
        policies = connection.execute(select(KEY_POLICIES).order_by(KEY_POLICIES.c.key_id)).all()
    return [tuple(row) for row in keys], [tuple(row) for row in policies]


@contextmanager
def _disk_of(sql: Sql, spare: int) -> Iterator[None]:
    """Let the database grow by so many pages and no more."""
    engine = sql._engine

    def limit(raw: sqlite3.Connection, _: object) -> None:
        pages = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA max_page_count = {pages + spare}")

    engine.dispose()
    event.listen(engine, "connect", limit)
    try:
        yield
    finally:
        event.remove(engine, "connect", limit)
        engine.dispose()
