"""The audit log: intents before effects, outcomes with them, in one order, whoever writes and whoever dies."""

from __future__ import annotations

import signal
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, text
from tests.support.audit_processes import (
    ALICE,
    EFFECTS,
    act,
    act_and_die,
    act_often,
    audit_of,
    effects,
    make_effects,
)
from tests.support.migrations import differences
from tests.support.registry_processes import start

from llmops.core.errors import ConfigError, ConflictError, DeniedError, IntegrityError, LlmopsError, StorageError
from llmops.core.sql import Sql
from llmops.core.state import StateConfig
from llmops.registry.audit import Audit, Entry, Origin, Wanted, entries, tables
from llmops.registry.audit.keyfile import key_path, load_key


@pytest.fixture
def audit(sql: Sql, sql_state: StateConfig) -> Iterator[Audit]:
    make_effects(sql)
    with audit_of(sql, sql_state) as opened:
        yield opened


def phases(audit: Audit) -> list[tuple[str, str]]:
    """Action and phase of every row, oldest first."""
    return [(entry.action_name, entry.phase) for entry in reversed(audit.read())]


def last(audit: Audit) -> Entry:
    return audit.read(Wanted(limit=1))[0]


def test_the_tables_are_as_the_code_says(sql: Sql) -> None:
    assert differences(sql, tables.metadata) == []


def test_an_intent_is_there_before_the_effect_and_the_outcome_with_it(audit: Audit, sql: Sql) -> None:
    with audit.acting("deploy", "prod.docs.chat@champion", {"version": 3}, ALICE) as acting:
        assert phases(audit) == [("deploy", "intent")]
        with sql.begin() as connection:
            connection.execute(insert(EFFECTS).values(writer="a", number=1))
            acting.concluded(connection, result={"etag": "e1"})
        assert phases(audit)[-1] == ("deploy", "done")
    intent, outcome = reversed(audit.read())
    assert (intent.action_id, intent.seq, outcome.seq) == (outcome.action_id, 1, 2) == (acting.action_id, 1, 2)
    shown = outcome.as_json()
    assert shown["user_identity"] == {
        "email": "alice@example.org",
        "subject_name": "alice@example.org",
        "kind": "person",
        "groups": ["risk"],
    }
    assert shown["response"] == {"status_code": 200, "error_message": None, "result": {"etag": "e1"}}
    assert (shown["org_id"], shown["audit_level"], shown["evidence_id"]) == ("prod", "WORKSPACE_LEVEL", None)
    assert (shown["request_params"], intent.prev_hash, outcome.prev_hash) == ({"version": 3}, "", intent.hash)
    assert intent.user_agent
    assert "@" in intent.user_agent
    assert audit.verify().ok


def test_an_effect_that_is_not_in_the_database_is_done_where_its_block_ends(audit: Audit) -> None:
    with audit.acting("weight", "prod.docs.chat"):
        pass
    assert phases(audit) == [("weight", "intent"), ("weight", "done")]


@pytest.mark.parametrize(
    ("error", "phase", "status", "told"),
    [
        (DeniedError("alice lacks MANAGE on prod"), "denied", 403, "alice lacks MANAGE on prod"),
        (ConflictError("somebody was first"), "failed", 409, "somebody was first"),
        (ValueError("not a number"), "failed", 500, "ValueError: not a number"),
        (KeyboardInterrupt(), "failed", 500, "KeyboardInterrupt: "),
    ],
)
def test_what_did_not_come_about_is_on_record_with_its_reason(
    audit: Audit, sql: Sql, error: BaseException, phase: str, status: int, told: str
) -> None:
    with pytest.raises(type(error)), audit.acting("deploy", "dev.docs.chat") as acting, sql.begin() as connection:
        connection.execute(insert(EFFECTS).values(writer="a", number=1))
        acting.concluded(connection)
        raise error
    assert effects(sql) == []
    outcome = last(audit)
    assert (outcome.phase, outcome.status_code, outcome.error_message) == (phase, status, told)
    assert audit.verify().ok


def test_an_error_after_the_effect_takes_nothing_back(audit: Audit, sql: Sql) -> None:
    with pytest.raises(ValueError, match="MLflow"), audit.acting("alias", "dev.docs.chat") as acting:
        with sql.begin() as connection:
            connection.execute(insert(EFFECTS).values(writer="a", number=1))
            acting.concluded(connection)
        raise ValueError("MLflow is down")
    assert phases(audit) == [("alias", "intent"), ("alias", "done")]


def test_a_refusal_before_any_action_is_on_record(audit: Audit) -> None:
    audit.refused("load", "prod.docs.chat/3", DeniedError("alice lacks EXECUTE"), principal=ALICE)
    assert phases(audit) == [("load", "intent"), ("load", "denied")]
    assert last(audit).actor == "alice@example.org"


def test_secrets_and_endless_values_stay_out(audit: Audit) -> None:
    secret = "sk-" + "a1b2c3d4" * 4
    with pytest.raises(ValueError, match="no"), audit.acting("deploy", "dev.docs.chat", {"api_key": secret}):
        raise ValueError(f"no: Bearer {secret}")
    with audit.acting("deploy", "dev.docs.chat", {"text": "x" * 100_000}):
        pass
    told = " ".join(f"{entry.request_params} {entry.error_message}" for entry in audit.read())
    assert secret not in told
    assert "[redacted]" in told
    assert '"omitted_bytes":100011' in told
    assert len(told) < 2_000


def test_an_origin_is_kept(sql: Sql, sql_state: StateConfig) -> None:
    audit = Audit(sql, sql_state, origin=Origin("gateway", "192.0.2.1", "curl/8", "request-1"))
    with audit.acting("create", "key:0123"):
        pass
    entry = last(audit)
    assert (entry.service_name, entry.source_ip_address, entry.user_agent, entry.request_id) == (
        "gateway",
        "192.0.2.1",
        "curl/8",
        "request-1",
    )
    assert (entry.org_id, entry.audit_level) == (None, "ACCOUNT_LEVEL")
    audit.close()


def test_rows_are_found_again(audit: Audit) -> None:
    for about in (
        "dev.docs.chat",
        "dev.docs.chat/3",
        "dev.docs.chat@champion",
        "dev.docs.chat_x",
        "dev.docs_chat",
    ):
        with audit.acting("alias", about, principal=ALICE):
            pass
    with audit.acting("deploy", "prod.docs.chat"):
        pass
    found = audit.read(Wanted(about="dev.docs.chat"))
    assert {entry.about for entry in found} == {"dev.docs.chat", "dev.docs.chat/3", "dev.docs.chat@champion"}
    assert len(audit.read(Wanted(actor="local"))) == 2
    assert {entry.about for entry in audit.read(Wanted(action="deploy"))} == {"prod.docs.chat"}
    now = datetime.now(UTC)
    assert len(audit.read(Wanted(since=now - timedelta(hours=1)))) == 12
    assert audit.read(Wanted(since=now + timedelta(hours=1))) == []
    assert [entry.seq for entry in audit.read(Wanted(limit=3))] == [12, 11, 10]


def test_rows_are_written_once(audit: Audit, sql: Sql) -> None:
    act(audit, sql, "a", 1)
    for statement in ("UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"):
        with pytest.raises(LlmopsError, match="append-only"), sql.begin() as connection:
            connection.execute(text(statement))
    if not sql.is_sqlite:
        with pytest.raises(LlmopsError, match="append-only"), sql.begin() as connection:
            connection.execute(text("TRUNCATE audit_log"))
    assert len(audit.read()) == 2


def test_a_clock_that_goes_back_breaks_no_order_and_is_seen(
    audit: Audit, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    act(audit, sql, "a", 1)
    monkeypatch.setattr(entries, "now", lambda: "2001-01-01T00:00:00.000000Z")
    act(audit, sql, "a", 2)
    monkeypatch.undo()
    act(audit, sql, "a", 3)
    report = audit.verify()
    assert (report.ok, report.entries) == (True, 6)
    assert [(warning.seq, "the clock went back" in warning.what) for warning in report.warnings] == [(3, True)]


def test_the_key_is_made_once_for_its_owner_alone_and_kept(audit: Audit, sql: Sql, sql_state: StateConfig) -> None:
    assert not key_path(sql_state).exists()
    act(audit, sql, "a", 1)
    key = key_path(sql_state)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    made = key.read_text()
    with audit_of(sql, sql_state) as another:
        act(another, sql, "b", 1)
    assert key.read_text() == made


def test_of_many_who_make_a_key_at_once_all_use_one(tmp_path: Path) -> None:
    found: list[bytes] = []
    state = StateConfig(dir=tmp_path / "state")
    threads = [threading.Thread(target=lambda: found.append(load_key(state, make=True))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [path.name for path in state.root.iterdir()] == ["audit.key"]


def test_without_its_key_or_with_another_nothing_is_done(audit: Audit, sql: Sql, sql_state: StateConfig) -> None:
    act(audit, sql, "a", 1)
    key = key_path(sql_state)
    kept = key.read_text()
    key.unlink()
    with audit_of(sql, sql_state) as keyless, pytest.raises(IntegrityError, match="key of the audit chain is gone"):
        act(keyless, sql, "b", 1)
    key.write_text("ab" * 32)
    with audit_of(sql, sql_state) as other, pytest.raises(IntegrityError, match="not the one that this audit chain"):
        act(other, sql, "b", 1)
    key.write_text("not a key")
    with audit_of(sql, sql_state) as broken, pytest.raises(IntegrityError, match="no key of an audit chain"):
        act(broken, sql, "b", 1)
    key.write_text(kept)
    with audit_of(sql, sql_state) as right:
        act(right, sql, "b", 1)
    assert effects(sql) == [("a", 1), ("b", 1)]
    assert audit.verify().ok


def test_a_key_from_elsewhere_leaves_no_file(sql: Sql, sql_state: StateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    make_effects(sql)
    state = sql_state.model_copy(update={"audit_key": "env:AUDIT_KEY"})
    monkeypatch.setenv("AUDIT_KEY", "short")
    with audit_of(sql, state) as audit, pytest.raises(ConfigError, match="fewer than 32"):
        act(audit, sql, "a", 1)
    monkeypatch.setenv("AUDIT_KEY", "long enough to be a key, 32 of them")
    with audit_of(sql, state) as audit:
        act(audit, sql, "a", 1)
        assert audit.verify().ok
    assert not key_path(state).exists()


def test_an_anchor_that_cannot_be_written_stops_an_action_before_its_effect(
    sql: Sql, sql_state: StateConfig, tmp_path: Path
) -> None:
    make_effects(sql)
    (tmp_path / "file").write_text("in the way")
    state = sql_state.model_copy(update={"audit_anchor": tmp_path / "file" / "anchor"})
    with audit_of(sql, state) as audit, pytest.raises(StorageError, match="anchor"):
        act(audit, sql, "a", 1)
    assert effects(sql) == []


def test_writers_in_several_processes_make_one_chain(audit: Audit, sql: Sql, sql_state: StateConfig) -> None:
    processes = [start(act_often, sql_state, f"writer_{number}", 8) for number in range(3)]
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(effects(sql)) == 24
    report = audit.verify()
    assert (report.ok, report.warnings, report.anchored) == (True, [], report.entries)
    done = [entry for entry in audit.read(Wanted(limit=1000)) if entry.phase == "done"]
    assert len(done) == 24


@pytest.mark.kill
@pytest.mark.parametrize(("where", "came_about"), [("before", False), ("within", False), ("after", True)])
def test_what_a_killed_process_left_is_concluded_truly(
    audit: Audit, sql: Sql, sql_state: StateConfig, where: str, came_about: bool
) -> None:
    killed = start(act_and_die, sql_state, where)
    killed.join(timeout=120)
    assert killed.exitcode == -signal.SIGKILL
    assert bool(effects(sql)) is came_about
    report = audit.verify()
    assert report.ok
    assert len(report.warnings) == (0 if came_about else 1)
    left = audit.left_open()
    assert [intent.about for intent in left] == ([] if came_about else ["dev.docs.chat"])
    assert audit.recover() == left
    assert phases(audit) == [("deploy", "intent"), ("deploy", "done" if came_about else "abandoned")]
    report = audit.verify()
    assert (report.ok, report.warnings) == (True, [])
    assert audit.recover() == []
    assert len(list((sql_state.root / "audit.sessions").iterdir())) == (0 if came_about else 1)  # ours, if we wrote


@pytest.mark.kill
def test_the_next_to_act_concludes_what_the_dead_left_and_an_outside_effect_is_asked_for(
    audit: Audit, sql: Sql, sql_state: StateConfig
) -> None:
    killed = start(act_and_die, sql_state, "before")
    killed.join(timeout=120)
    (intent,) = audit.recover(lambda intent: intent.about == "dev.docs.chat")
    assert intent.about == "dev.docs.chat"
    assert phases(audit)[-1] == ("deploy", "done")
    killed = start(act_and_die, sql_state, "before")
    killed.join(timeout=120)
    with audit_of(sql, sql_state) as another:
        act(another, sql, "a", 1)
    assert [phase for _, phase in phases(audit)] == ["intent", "done", "intent", "abandoned", "intent", "done"]


def test_who_is_alive_is_left_alone(audit: Audit, sql: Sql, sql_state: StateConfig) -> None:
    with audit_of(sql, sql_state) as other, other.acting("deploy", "dev.docs.chat"):
        assert audit.left_open() == audit.recover() == other.recover() == []
    assert phases(audit) == [("deploy", "intent"), ("deploy", "done")]


def test_an_action_given_up_for_dead_cannot_conclude(audit: Audit, sql: Sql) -> None:
    told = pytest.raises(ConflictError, match="concluded as abandoned")
    with told, audit.acting("deploy", "dev.docs.chat") as acting, sql.begin() as connection:
        connection.execute(text("DELETE FROM audit_open"))
        connection.execute(insert(EFFECTS).values(writer="a", number=1))
        acting.concluded(connection)
    assert effects(sql) == []
