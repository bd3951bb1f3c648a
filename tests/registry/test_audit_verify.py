"""What `verify` finds: every way to change a record, and none where nobody did."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text
from tests.support.audit_processes import act, audit_of, make_effects, tamper
from tests.support.registry_processes import CHAT, passing
from tests.support.registry_rows import seed

from llmops.core.errors import IntegrityError
from llmops.core.sql import Sql
from llmops.core.state import StateConfig
from llmops.registry import evidence
from llmops.registry.audit import Audit, Report
from llmops.registry.audit.keyfile import key_path

RESEAL = "UPDATE audit_head SET seq = :seq, hash = (SELECT hash FROM audit_log WHERE seq = :seq)"


@pytest.fixture
def audit(sql: Sql, sql_state: StateConfig) -> Iterator[Audit]:
    """Ten rows; the last one rests on evidence."""
    make_effects(sql)
    version = seed(sql, str(CHAT), 1)[0]
    with audit_of(sql, sql_state) as opened:
        for number in range(4):
            act(opened, sql, "a", number)
        with opened.acting("alias", str(CHAT)) as acting, sql.begin() as connection:
            acting.concluded(connection, evidence_id=evidence.save(connection, passing(version)))
        yield opened


def told(report: Report) -> list[tuple[int | None, str]]:
    return [(problem.seq, problem.what) for problem in report.problems]


def test_a_whole_record(audit: Audit) -> None:
    report = audit.verify()
    assert report.as_json() | {"seconds": 0} == {
        "ok": True,
        "entries": 10,
        "evidence": 1,
        "anchored": 10,
        "first_bad": None,
        "problems": [],
        "warnings": [],
        "seconds": 0,
    }


def test_an_empty_record_needs_no_key(sql: Sql, sql_state: StateConfig) -> None:
    with audit_of(sql, sql_state) as audit:
        assert (audit.verify().ok, audit.verify().entries) == (True, 0)


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'mallory'",
        "error_message = 'x'",
        "status_code = 201",
        "event_time = '2001-01-01T00:00:00.000000Z'",
        "evidence_id = NULL, result = NULL",
        "hash = prev_hash",
        "prev_hash = hash",
        "account_id = '0000000000000000'",
    ],
)
def test_a_changed_row(audit: Audit, sql: Sql, change: str) -> None:
    tamper(sql, f"UPDATE audit_log SET {change} WHERE seq = 6")
    report = audit.verify()
    assert report.first_bad == 6
    assert "changed" in dict(told(report))[6]


def test_a_row_taken_out(audit: Audit, sql: Sql) -> None:
    tamper(sql, "DELETE FROM audit_log WHERE seq IN (4, 5)")
    report = audit.verify()
    assert report.first_bad == 4
    assert told(report)[0] == (4, "rows are gone: 4 to 5")


def test_a_row_taken_out_and_the_rest_renumbered(audit: Audit, sql: Sql) -> None:
    tamper(sql, "DELETE FROM audit_log WHERE seq = 4", "UPDATE audit_log SET seq = -seq WHERE seq > 4")
    tamper(sql, "UPDATE audit_log SET seq = -seq - 1 WHERE seq < 0", RESEAL, seq=9)
    assert audit.verify().first_bad == 4


def test_rows_in_another_order(audit: Audit, sql: Sql) -> None:
    tamper(
        sql,
        "UPDATE audit_log SET seq = -3 WHERE seq = 3",
        "UPDATE audit_log SET seq = 3 WHERE seq = 5",
        "UPDATE audit_log SET seq = 5 WHERE seq = -3",
    )
    report = audit.verify()
    assert report.first_bad == 3
    assert {3, 5} <= {seq for seq, _ in told(report)}


def test_a_row_written_by_somebody_without_the_key(audit: Audit, sql: Sql) -> None:
    columns = "action_id, phase, event_time, version, audit_level, account_id, session_id, actor, actor_kind, " + (
        "actor_groups, service_name, action_name, about, request_params, hash"
    )
    tamper(
        sql,
        f"INSERT INTO audit_log (seq, prev_hash, {columns}) SELECT 11, hash, {columns} FROM audit_log WHERE seq = 10",
        RESEAL,
        seq=11,
    )
    assert audit.verify().first_bad == 11


@pytest.mark.parametrize("left", [0, 1, 7, 9])
def test_an_end_cut_off_is_known_to_the_anchor(audit: Audit, sql: Sql, left: int) -> None:
    tamper(sql, "DELETE FROM audit_log WHERE seq > :seq", seq=left)
    statement = RESEAL if left else "UPDATE audit_head SET seq = 0, hash = ''"
    tamper(sql, statement, **({"seq": left} if left else {}))
    report = audit.verify()
    assert told(report)[0] == (left + 1, "the end of the log was cut off: the anchor remembers row 10")


def test_an_end_cut_off_is_known_to_the_head(audit: Audit, sql: Sql, sql_state: StateConfig) -> None:
    sql_state.anchor.write_text('{"seq": 0, "hash": ""}')  # an anchor that a crash left behind: no proof
    tamper(sql, "DELETE FROM audit_log WHERE seq > 8")
    assert told(audit.verify())[0] == (9, "the log ends with row 8, but its head remembers row 10")


def test_a_crash_between_commit_and_anchor_is_no_fault(audit: Audit, sql: Sql, sql_state: StateConfig) -> None:
    before = sql_state.anchor.read_bytes()
    act(audit, sql, "a", 9)
    sql_state.anchor.write_bytes(before)
    report = audit.verify()
    assert (report.ok, report.anchored, report.entries) == (True, 10, 12)


def test_a_log_replaced_by_an_equally_long_one(audit: Audit, sql: Sql, sql_state: StateConfig) -> None:
    """Whoever has the key can write another history; the anchor still knows the old one."""
    sql_state.anchor.write_text('{"seq": 10, "hash": "%s"}' % ("0" * 64))
    assert told(audit.verify()) == [(10, "this row is not the one that the anchor remembers: the log was replaced")]


def test_an_anchor_that_is_gone_or_broken(audit: Audit, sql: Sql, sql_state: StateConfig) -> None:
    sql_state.anchor.unlink()
    report = audit.verify()
    assert (report.ok, report.first_bad) == (False, None)
    assert "the anchor is gone" in told(report)[0][1]
    act(audit, sql, "a", 9)  # the log itself tells that an anchor was begun anew
    report = audit.verify()
    assert report.ok
    assert [warning.what for warning in report.warnings] == ["the anchor was gone here, and begun anew"]
    sql_state.anchor.write_text("{")
    assert "no anchor" in told(audit.verify())[0][1]


def test_another_key(audit: Audit, sql: Sql, sql_state: StateConfig) -> None:
    key_path(sql_state).write_text("ab" * 32)
    report = audit.verify()
    assert report.first_bad == 1
    assert "sealed with another key" in told(report)[0][1]
    key_path(sql_state).unlink()
    with pytest.raises(IntegrityError, match="is gone"):
        audit.verify()


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace('"pass"', '"fail"'),
        lambda body: body,
    ],
)
def test_changed_evidence(audit: Audit, sql: Sql, change: Callable[[str], str]) -> None:
    """Its body, or the column that decides."""
    with sql.read() as connection:
        body = connection.execute(text("SELECT body FROM evidence")).scalar_one()
    changed = change(body)
    verdict = "pass" if changed != body else "fail"
    tamper(sql, "UPDATE evidence SET body = :body, verdict = :verdict", body=changed, verdict=verdict)
    report = audit.verify()
    assert report.first_bad == 10
    assert "was changed" in told(report)[0][1]


def test_evidence_that_is_gone(audit: Audit, sql: Sql) -> None:
    tamper(sql, "DELETE FROM evidence")
    ((seq, what),) = told(audit.verify())
    assert seq == 10
    assert what.endswith("is gone")


def test_outcomes_without_intents_and_intents_without_outcomes(audit: Audit, sql: Sql) -> None:
    with audit.acting("deploy", "dev.docs.chat"):
        report = audit.verify()
    assert (report.ok, [warning.seq for warning in report.warnings]) == (True, [11])
    action = audit.read()[0].action_id
    said = {name: value for name, value in vars(audit.read()[0]).items() if name not in ("seq", "hash", "prev_hash")}
    with sql.begin() as connection:
        audit._append(connection, said | {"phase": "done"})
        audit._append(connection, said | {"phase": "intent", "action_id": "x"})
        audit._append(connection, said | {"phase": "intent", "action_id": "x"})
    assert action
    assert [seq for seq, _ in told(audit.verify())] == [13, 15]


def test_a_row_whose_values_are_of_another_type(audit: Audit, sql: Sql) -> None:
    if not sql.is_sqlite:
        pytest.skip("PostgreSQL's columns keep their types")
    tamper(sql, "UPDATE audit_log SET actor = x'00ff' WHERE seq = 2")
    assert audit.verify().first_bad == 2


def test_many_wrong_rows_are_told_in_bounds(audit: Audit, sql: Sql, sql_state: StateConfig) -> None:
    for number in range(60):
        act(audit, sql, "b", number)
    shutil.copyfile(sql_state.anchor, sql_state.anchor.with_suffix(".kept"))
    tamper(sql, "UPDATE audit_log SET actor = 'mallory'")
    report = audit.verify()
    assert (report.first_bad, len(report.problems), report.entries) == (1, 100, 130)
