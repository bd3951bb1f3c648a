"""The alias of record: moved with evidence, by compare-and-set, in SQLite and PostgreSQL alike."""

from __future__ import annotations

import multiprocessing

import pytest
from sqlalchemy import text
from tests.support.migrations import differences
from tests.support.registry_processes import CHAT, passing, point, start
from tests.support.registry_rows import seed

from llmops.core.errors import ConflictError, LlmopsError, NotFoundError, UserError
from llmops.core.names import Name
from llmops.core.sql import Sql
from llmops.core.state import StateConfig
from llmops.registry import Evidence, Version, aliases, evidence, tables
from llmops.registry.aliases import Move
from llmops.registry.records import Alias


def move(sql: Sql, version: Version, etag: str | None, *, alias: str = "champion") -> Alias:
    with sql.begin() as connection:
        evidence_id = evidence.save(connection, passing(version))
        moves = [Move(version.name, alias, version.version, etag, evidence_id)]
        return aliases.move(connection, moves, actor="tester")[0]


def read(sql: Sql, alias: str = "champion", name: Name = CHAT) -> Alias | None:
    with sql.read() as connection:
        return aliases.read(connection, name, alias)


def test_the_migrations_make_the_tables_that_the_code_defines(sql: Sql) -> None:
    assert differences(sql, tables.metadata) == []


def test_a_move_needs_the_etag_that_was_read(sql: Sql) -> None:
    one, two = seed(sql, str(CHAT), 2)
    first = move(sql, one, None)
    second = move(sql, two, first.etag)
    assert (second.version, second.moved_by) == (2, "tester")
    for stale in (first.etag, None, "never"):
        with pytest.raises(ConflictError, match="tester pointed it to version 2") as caught:
            move(sql, one, stale)
        assert caught.value.where == "dev.docs.chat@champion"
    assert read(sql) == second


def test_several_moves_happen_together_or_not_at_all(sql: Sql) -> None:
    one, two = seed(sql, str(CHAT), 2)
    champion = move(sql, one, None)
    with sql.begin() as connection:
        proof_one, proof_two = (evidence.save(connection, passing(version)) for version in (one, two))
    both = [
        Move(CHAT, "champion", 2, champion.etag, proof_two),
        Move(CHAT, "previous_champion", 1, "stale", proof_one),
    ]
    with pytest.raises(ConflictError), sql.begin() as connection:
        aliases.move(connection, both, actor="tester")
    assert read(sql) == champion
    both[1] = Move(CHAT, "previous_champion", 1, None, proof_one)
    with sql.begin() as connection:
        aliases.move(connection, both, actor="tester")
    now, before = read(sql), read(sql, "previous_champion")
    assert now is not None
    assert before is not None
    assert (now.version, before.version) == (2, 1)


def test_history_keeps_every_move_and_removal(sql: Sql) -> None:
    one, two = seed(sql, str(CHAT), 2)
    first = move(sql, one, None)
    second = move(sql, two, first.etag)
    with sql.begin() as connection:
        proof = evidence.save(connection, passing(two, gate="retire"))
        assert aliases.move(connection, [Move(CHAT, "champion", None, second.etag, proof)], actor="other") == []
    assert read(sql) is None
    with sql.read() as connection:
        lines = aliases.history(connection, CHAT, "champion")
    assert [(line.previous_version, line.version, line.moved_by) for line in lines] == [
        (2, None, "other"),
        (1, 2, "tester"),
        (None, 1, "tester"),
    ]
    with pytest.raises(UserError, match="can't be taken away"), sql.begin() as connection:
        aliases.move(connection, [Move(CHAT, "champion", None, None, proof)], actor="other")


@pytest.mark.parametrize(
    ("change", "told"),
    [({"verdict": "fail"}, "verdict is `fail`"), ({"verdict": "inconclusive"}, "verdict is `inconclusive`")],
)
def test_nothing_moves_without_passing_evidence(sql: Sql, change: dict[str, str], told: str) -> None:
    one, two = seed(sql, str(CHAT), 2)
    with pytest.raises(UserError, match=told), sql.begin() as connection:
        bad = evidence.save(connection, passing(one, **change))
        aliases.move(connection, [Move(CHAT, "champion", 1, None, bad)], actor="tester")
    with pytest.raises(UserError, match=r"speaks of dev.docs.chat/2"), sql.begin() as connection:
        other = evidence.save(connection, passing(two))
        aliases.move(connection, [Move(CHAT, "champion", 1, None, other)], actor="tester")
    with pytest.raises(NotFoundError, match="no evidence"), sql.begin() as connection:
        aliases.move(connection, [Move(CHAT, "champion", 1, None, "0" * 64)], actor="tester")
    assert read(sql) is None


def test_an_alias_is_a_word(sql: Sql) -> None:
    (one,) = seed(sql, str(CHAT), 1)
    with pytest.raises(UserError, match="not an alias"):
        move(sql, one, None, alias="Not One")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE evidence SET verdict = 'fail'",
        "DELETE FROM evidence",
        "UPDATE alias_moves SET version = 2",
        "DELETE FROM alias_moves",
        "UPDATE versions SET digest = 'x'",
        "DELETE FROM versions",
    ],
)
def test_the_database_refuses_to_rewrite_the_record(sql: Sql, change: str) -> None:
    one, _ = seed(sql, str(CHAT), 2)
    move(sql, one, None)
    with pytest.raises(LlmopsError, match="append-only"), sql.begin() as connection:
        connection.execute(text(change))


def test_evidence_is_filed_under_its_content(sql: Sql) -> None:
    (one,) = seed(sql, str(CHAT), 1)
    record = passing(one, effect=0.1, parents=("a" * 64,))
    with sql.begin() as connection:
        assert evidence.save(connection, record) == evidence.save(connection, record) == record.evidence_id
    with sql.read() as connection:
        assert evidence.load(connection, record.evidence_id) == record
        assert evidence.of_version(connection, one) == [record]
        with pytest.raises(NotFoundError):
            evidence.load(connection, "0" * 64)
    changed = Evidence.model_validate(record.model_dump() | {"effect": 0.2})
    assert changed.evidence_id != record.evidence_id


@pytest.mark.parametrize("first", [True, False])
def test_of_many_movers_exactly_one_wins_and_the_others_are_told(sql: Sql, sql_state: StateConfig, first: bool) -> None:
    movers = 4
    versions = seed(sql, str(CHAT), movers)
    etag = None if first else move(sql, versions[0], None).etag
    context = multiprocessing.get_context("forkserver")
    gate, told = context.Barrier(movers), context.Queue()
    processes = [start(point, sql_state, number, etag, gate, told) for number in range(1, movers + 1)]
    outcomes = dict(told.get(timeout=180) for _ in processes)
    for process in processes:
        process.join(timeout=120)
    winners = [number for number, outcome in outcomes.items() if outcome == number]
    assert len(winners) == 1, outcomes
    assert [outcome for outcome in outcomes.values() if outcome == "conflict"] == ["conflict"] * (movers - 1)
    now = read(sql)
    assert now is not None
    assert now.version == winners[0]
    with sql.read() as connection:
        assert len(aliases.history(connection, CHAT)) == (1 if first else 2)
