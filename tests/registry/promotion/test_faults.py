"""Promotion under fire: real SIGKILLs between its steps, several operators at once, a database locked or gone."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event, text
from tests.support.promotion_processes import act, act_and_die, act_on_mlflow_and_die, race
from tests.support.promotions import Desk, against, found
from tests.support.registry_processes import CHAT, prompt, start

from llmops.core import sql as core_sql
from llmops.core.errors import ConflictError, LlmopsError, StorageError, UnavailableError
from llmops.core.state import StateConfig
from llmops.registry import Registry, Version
from llmops.registry.mlflow_adapter import MlflowStore
from llmops.registry.promotion import Policy, Promoter, State

PROMOTING = [
    ("intent", 1),  # the promotion itself is not there yet
    ("outcome", 1),
    ("intent", 2),  # registered -> validating
    ("effect", 1),
    ("swap", 1),
    ("outcome", 2),
    ("step", 1),
    ("intent", 3),  # -> validated
    ("moves", 1),
    ("effect", 2),
    ("step", 2),
    ("intent", 4),  # -> promoted
    ("lock", 9),
    ("guard", 6),
    ("decision", 1),
    ("decision", 2),
    ("swap", 3),  # the old champion's promotion has ended
    ("moves", 2),
    ("effect", 3),
    ("swap", 4),
    ("outcome", 4),
    ("step", 3),
    ("seen", 1),
    ("caught_up", 1),
]
IN_POSTGRESQL = [("intent", 4), ("moves", 2), ("outcome", 4), ("step", 3)]
CASES = [("sqlite", *case) for case in PROMOTING]
CASES += [pytest.param("postgresql", *case, marks=pytest.mark.postgresql) for case in IN_POSTGRESQL]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state that `killed` starts from, made once: opening an empty one runs every migration."""
    folder = tmp_path_factory.mktemp("prepared") / "state"
    _prepare(StateConfig(dir=folder))
    return folder


@pytest.fixture
def killed(sql_state: StateConfig, prepared: Path) -> StateConfig:
    """A state with a champion, and a better version whose evidence is filed."""
    if sql_state.sql_url is None:
        shutil.rmtree(sql_state.root)
        shutil.copytree(prepared, sql_state.root)
    else:
        _prepare(sql_state)
    return sql_state


def _prepare(state: StateConfig) -> None:
    with Desk(state) as desk:
        one, two, _ = desk.seed()
        Promoter(desk).promote(one.ref, [found(one), against(one, None)])
        desk.add_evidence(found(two))
        desk.add_evidence(against(two, one))


def consistent(desk: Desk) -> None:
    """What holds after any crash: states and aliases tell the same, and every intent has its outcome once recovered."""
    aliases = desk.show(CHAT).aliases
    states = {item.version: item.state for item in Promoter(desk).status(CHAT)}
    crowned = [version for version, state in states.items() if state is State.PROMOTED]
    assert crowned == [aliases["champion"]]
    if aliases["champion"] == 2:
        assert aliases == {"champion": 2, "previous_champion": 1}
        assert states[1] is State.RETIRED
    else:
        assert states.get(2) is not State.PROMOTED
        assert ("challenger" in aliases) == (
            states.get(2) in {State.VALIDATED, State.AWAITING_APPROVAL, State.APPROVED}
        )
    desk.audit.recover()
    assert desk.audit.left_open() == []
    with desk.sql.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM audit_open")).scalar() == 0


def die(state: StateConfig, action: str, ref: str, place: str, times: int) -> None:
    process = start(act_and_die, state, action, ref, place, times)
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.kill
@pytest.mark.parametrize(("sql_state", "place", "times"), CASES, indirect=["sql_state"])
def test_a_killed_promotion_is_whole_or_undone_and_its_rerun_ends_it(
    killed: StateConfig, place: str, times: int
) -> None:
    die(killed, "promote", f"{CHAT}/2", place, times)
    with Desk(killed) as desk:
        consistent(desk)
        assert act(desk, "promote", f"{CHAT}/2").state is State.PROMOTED
        consistent(desk)
        assert desk.show(CHAT).aliases == {"champion": 2, "previous_champion": 1}
        steps = [e.detail["to"] for e in Promoter(desk).history(CHAT) if e.kind == "state" and e.version == 2]
        assert steps == ["promoted", "validated", "validating"]
        moves = Counter(move.alias for move in desk.history(CHAT) if move.version == 2)
        assert moves == {"champion": 1, "challenger": 1}


@pytest.mark.kill
@pytest.mark.parametrize("sql_state", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("place", "times"),
    [("intent", 1), ("undone", 1), ("moves", 1), ("swap", 1), ("swap", 2), ("outcome", 1), ("mirror", 1)],
)
def test_a_killed_rollback_happens_once(killed: StateConfig, place: str, times: int) -> None:
    with Desk(killed) as desk:
        act(desk, "promote", f"{CHAT}/2")
    die(killed, "rollback", str(CHAT), place, times)
    with Desk(killed) as desk:
        consistent(desk)
        done = act(desk, "rollback", str(CHAT))
        assert (done.from_version, done.to_version) == (2, 1)
        consistent(desk)
        assert desk.show(CHAT).aliases == {"champion": 1}
        assert [move.version for move in desk.history(CHAT, "champion")] == [1, 2, 1]


@pytest.mark.kill
@pytest.mark.parametrize("sql_state", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("place", "times"), [("intent", 1), ("said", 1), ("outcome", 1), ("intent", 2), ("step", 1)])
def test_a_killed_approval_is_said_or_not(killed: StateConfig, place: str, times: int) -> None:
    with Desk(killed) as desk:
        Promoter(desk).set_policy("dev", Policy(approvals=("risk",)))
        assert act(desk, "promote", f"{CHAT}/2").state is State.AWAITING_APPROVAL
    die(killed, "approve", f"{CHAT}/2", place, times)
    with Desk(killed) as desk:
        consistent(desk)
        assert act(desk, "approve", f"{CHAT}/2").state is State.APPROVED
        assert act(desk, "promote", f"{CHAT}/2").state is State.PROMOTED
        consistent(desk)


@pytest.mark.kill
@pytest.mark.parametrize(("place", "times"), [("step", 3), ("seen", 1), ("caught_up", 1)])
def test_mlflow_is_behind_after_a_kill_and_put_right_by_the_rerun(
    tmp_path: Path, empty_mlflow: Path, place: str, times: int
) -> None:
    state = StateConfig(dir=tmp_path / "state")
    (state.root / "mlflow").mkdir(parents=True)
    shutil.copyfile(empty_mlflow, state.root / "mlflow" / "dev.db")
    with Registry(state) as registry:
        made = registry.register(prompt("one"), crown_first=False)
        assert made.aliases == ()
        registry.add_evidence(found(made))
        registry.add_evidence(against(made, None))
    process = start(act_on_mlflow_and_die, state, str(made.ref), place, times)
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    with Registry(state) as registry:
        assert registry.resolve(str(made.name)) == registry.resolve(made.ref)
        assert Promoter(registry).promote(made.ref).state is State.PROMOTED
        assert registry.repair(plan=True).copies.aliases == []
    with MlflowStore(state, "dev").client() as (_, client):
        assert client.get_prompt_version(str(made.name), 1).tags["validation_status"] == "PASSED"


@pytest.mark.parametrize("numbers", [(2, 3), (2, 2)], ids=["two versions", "the same version"])
def test_of_two_operators_one_wins_and_the_other_is_told(killed: StateConfig, numbers: tuple[int, int]) -> None:
    with Desk(killed) as desk:
        one, _, three = (desk.resolve(f"{CHAT}/{number}") for number in (1, 2, 3))
        desk.add_evidence(found(three))
        desk.add_evidence(against(three, one))
    context = multiprocessing.get_context("forkserver")
    gate, told = context.Barrier(2), context.Queue()
    processes = [start(race, killed, number, gate, told) for number in numbers]
    outcomes = [told.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=120)
    with Desk(killed) as desk:
        champion = desk.resolve(str(CHAT)).version
        assert len([move for move in desk.history(CHAT, "champion") if move.version in numbers]) == 1
    won = [outcome for outcome in outcomes if outcome[1] == "promoted"]
    lost = [outcome for outcome in outcomes if outcome[1] != "promoted"]
    assert {number for number, _, _ in won} == {champion}
    if numbers == (2, 3):
        assert [(state, len(why)) for _, state, why in lost] == [("validated", 1)]
        assert f"dev.docs.chat/{champion} is champion now; compare again" in lost[0][2][0]
    else:  # the loser either met the move half way, or came after it
        assert all(code == "conflict" and "moved this promotion meanwhile" in why[0] for _, code, why in lost)


def test_threads_that_promote_the_same_version_do_it_once(killed: StateConfig) -> None:
    outcomes: list[str] = []
    gate = threading.Barrier(4, timeout=120)

    def operate() -> None:
        with Desk(killed) as desk:
            gate.wait()
            try:
                outcomes.append(act(desk, "promote", f"{CHAT}/2").state.value)
            except ConflictError as error:
                outcomes.append(error.error_code)

    threads = [threading.Thread(target=operate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4
    assert set(outcomes) <= {"promoted", "conflict"}
    with Desk(killed) as desk:
        consistent(desk)
        assert act(desk, "promote", f"{CHAT}/2").state is State.PROMOTED
        assert len(desk.history(CHAT, "previous_champion")) == 1


def test_a_locked_database_is_told_and_nothing_is_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_sql, "BUSY_TIMEOUT_S", 0.05)
    state = StateConfig(dir=tmp_path / "state")
    with Desk(state) as desk:
        one = desk.seed()[0]
        Promoter(desk).promote(one.ref)
        desk.add_evidence(found(one))
        locker = sqlite3.connect(state.root / "state.db", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match="locked"):
            Promoter(desk).promote(one.ref)
        locker.execute("ROLLBACK")
        locker.close()
        assert Promoter(desk).promote(one.ref).state is State.VALIDATED


@pytest.mark.postgresql
def test_a_server_that_is_gone_is_told(tmp_path: Path, postgresql_url: str) -> None:
    state = StateConfig(dir=tmp_path / "state", sql_url=postgresql_url)
    with Desk(state) as desk:
        one: Version = desk.seed()[0]
        Promoter(desk).promote(one.ref)
    gone = StateConfig(dir=tmp_path / "state", sql_url="postgresql://test@/none?host=/nonexistent")
    with pytest.raises(LlmopsError, match="does not answer"):
        Desk(gone)
    with Desk(state) as desk:
        assert Promoter(desk).promote(one.ref, [found(one)]).state is State.VALIDATED


@pytest.mark.parametrize("act", ["promote", "rollback", "retire"])
def test_a_disk_that_fills_up_in_the_middle_is_told_and_the_rerun_goes_on(
    prepared: Path, tmp_path: Path, act: str
) -> None:
    """The disk is full after one more page, then after two, and so on: each place of the action is the last once."""
    told = []
    for spare in range(40):
        folder = tmp_path / f"state-{spare}"
        shutil.copytree(prepared, folder)
        with Desk(StateConfig(dir=folder)) as desk:
            if act != "promote":
                _act(desk, "promote")
            before = desk.show(CHAT).aliases
            with _disk_of(desk, spare):
                try:
                    _act(desk, act)
                except StorageError as error:
                    told.append(error.what)
            assert desk.show(CHAT).aliases in (before, before | {"challenger": 2}, _AFTER[act])
            assert desk.audit.verify().ok
            _act(desk, act)
            assert desk.show(CHAT).aliases == desk.store.held[str(CHAT)] == _AFTER[act]
            desk.audit.recover()
            assert desk.audit.left_open() == []
            report = desk.audit.verify()
            assert report.ok, report
        if len(told) == spare:
            break  # the action went through: there was room for all of it
    assert len(told) >= 2
    assert all("cannot write" in what for what in told)


_AFTER = {
    "promote": {"champion": 2, "previous_champion": 1},
    "rollback": {"champion": 1},
    "retire": {},
}


def _act(desk: Desk, act: str) -> None:
    if act == "promote":
        assert Promoter(desk).promote(f"{CHAT}/2").state is State.PROMOTED
    else:
        getattr(Promoter(desk), act)(CHAT, "because " * 1000)  # longer than a page


@contextmanager
def _disk_of(desk: Desk, spare: int) -> Iterator[None]:
    """Let the database grow by so many pages and no more."""
    engine = desk.sql._engine

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
