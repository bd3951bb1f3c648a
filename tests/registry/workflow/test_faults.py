"""Tasks that hang, die, flood, leak or give nonsense; engines that are killed, doubled, cancelled; locks; clocks."""

from __future__ import annotations

import multiprocessing
import random
import signal
import sqlite3
import threading
import time
from datetime import datetime, timedelta, tzinfo
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support.waiting import eventually
from tests.support.workflows import Bench, carry, task

from llmops.core.errors import ConflictError
from llmops.core.ids import new_id
from llmops.registry.workflow import Run, RunStatus, TaskStatus, attempt, journal, runs
from llmops.registry.workflow.engine import place_of
from llmops.registry.workflow.journal import Journal
from llmops.registry.workflow.logfile import HEAD_BYTES, TAIL_BYTES


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def engine_process(bench: Bench, run_id: str, **more: int) -> ForkServerProcess:
    """An engine that may be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.workflows"])
    process = context.Process(target=carry, args=(bench.state, run_id), kwargs=more)
    process.start()
    return process


def kill_by_itself(bench: Bench, run_id: str) -> None:
    """An engine whose task kills it."""
    engine = engine_process(bench, run_id)
    engine.join(120)
    assert engine.exitcode == -signal.SIGKILL


def test_a_task_that_hangs_is_ended_with_all_it_started(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is over once it hangs, however long it took to come to that."""
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + (3600 if bench.began() else 0), sleep=time.sleep)
    monkeypatch.setattr(attempt, "time", clock)
    run, tasks = bench.run([task("a", "hang", timeout_s=3600, given=bench.given())])
    assert run.error is not None
    assert (run.error.what, run.error.code) == ("the task ran longer than 3600 s", "timeout")
    child = int(bench.notes.read_text().split()[-1])
    eventually(lambda: not alive(child))
    assert tasks["a"].duration_s is not None
    assert 3600 <= tasks["a"].duration_s < 3600 + 500  # it would hang for 600 s


@pytest.mark.parametrize(
    ("function", "given", "told"),
    [
        ("killed", {}, "the task's process was killed (SIGKILL)"),
        ("killed", {"signal": 11}, "the task's process was ended by SIGSEGV"),
        ("leave", {"code": 137}, "the task's process ended without an answer, exit code 137"),
        ("leave", {"code": 0}, "the task's process ended without an answer, exit code 0"),
        ("exit_", {}, "the task ended its process, exit code 3"),
    ],
)
def test_a_process_that_dies_is_told_how_and_tried_again(
    bench: Bench, function: str, given: dict[str, int], told: str
) -> None:
    run, tasks = bench.run([task("a", function, retries=1, given=given)])
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error.what == told
    assert tasks["a"].attempts == 2


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("not_json", "what the task gave holds a builtins.set at `a.b`, which is not JSON"),
        ("not_a_mapping", "the task gave a list, not a mapping of names to values"),
        ("huge", "the task gave 2,000,011 bytes; 1,000,000 at most"),
        ("secret_value", "what the task gave holds what looks like a secret at `key`: pass a reference, env:NAME"),
    ],
)
def test_an_answer_that_no_row_can_hold_is_refused_once(bench: Bench, function: str, told: str) -> None:
    run, tasks = bench.run([task("a", function, retries=3)])
    assert run.error is not None
    assert run.error.what == told
    assert tasks["a"].attempts == 1


def test_a_flood_is_kept_by_its_ends(bench: Bench) -> None:
    run, tasks = bench.run([task("a", "flood")])
    assert run.status is RunStatus.SUCCEEDED
    log = bench.log(tasks["a"])
    assert len(log) < HEAD_BYTES + TAIL_BYTES + 1000
    assert "bytes left out" in log
    assert log.endswith("the last line\n")


def test_secrets_stay_out_of_logs_and_rows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUSH", "correct-horse-battery")
    run, tasks = bench.run([task("a", "leak", given={"key": "env:HUSH"})])
    log = bench.log(tasks["a"])
    assert log.startswith("the key is [redacted] and the word is [redacted]\n")
    assert run.error is not None
    assert run.error.what == "ValueError: refused [redacted]"
    for file in bench.state.root.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert b"sk-abcdefghij" not in data, file
            assert b"correct-horse" not in data, file


@pytest.mark.kill
def test_an_engine_killed_by_its_task_leaves_a_run_that_goes_on(bench: Bench) -> None:
    given = bench.given()
    tasks = [
        task("a", given={**given, "n": 1}),
        task("b", "kill_engine", given=given),
        task("c", given={**given, "n": "${a.n}"}),
    ]
    run = bench.flows.start(bench.job(tasks))
    kill_by_itself(bench, run.run_id)
    run, stands = bench.carry(run.run_id)
    assert run.status is RunStatus.SUCCEEDED
    assert bench.began() == ["a 1", "b 1", "b 2", "c 1"]
    assert (stands["b"].interruptions, stands["b"].failures, stands["c"].values) == (1, 0, {"n": 1})


@pytest.mark.kill
def test_a_task_that_always_kills_its_engine_is_given_up(bench: Bench) -> None:
    run = bench.flows.start(bench.job([task("a", "kill_engine", given=bench.given(times=100))]))
    for _ in range(5):
        kill_by_itself(bench, run.run_id)
    run, _ = bench.carry(run.run_id)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error.what == "the task was interrupted 5 times"
    assert bench.began() == [f"a {number}" for number in range(1, 6)]


@pytest.mark.kill
def test_a_killed_engine_takes_its_tasks_along(bench: Bench) -> None:
    """Else a second attempt would run beside the first."""
    run = bench.flows.start(bench.job([task("a", "slow", given=bench.given())]))
    engine = engine_process(bench, run.run_id)
    eventually(lambda: bench.began() == ["a 1"])
    child = int(bench.notes.read_text().split()[-1])
    assert alive(child)
    engine.kill()
    engine.join()
    eventually(lambda: not alive(child))


@pytest.mark.kill
def test_engines_killed_at_random_repeat_nothing_that_succeeded(sql_bench: Bench) -> None:
    bench = sql_bench
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    given = bench.given()
    names = [f"t{number}" for number in range(4)]
    run = bench.flows.start(bench.job([task(name, given={**given, "n": index}) for index, name in enumerate(names)]))
    for killed in range(100):
        engine = engine_process(bench, run.run_id, most_interruptions=1000)
        engine.join(0.1 + chance.random() * 1.05**killed)  # the later, the longer: a busy machine comes to an end too
        engine.kill()
        engine.join()
        if bench.shown(run.run_id)[0].status.over:
            break
    run, tasks = bench.shown(run.run_id)
    assert run.status is RunStatus.SUCCEEDED, seed
    began = bench.began()
    for one in tasks.values():
        cut = [line for line in began if line.startswith(f"{one.task} ")]
        assert len(cut) <= one.interruptions + 1, (seed, began)
        assert one.values == {"n": int(one.task[1:])}


@pytest.mark.kill
@pytest.mark.parametrize("step", ["begin", "end", "mark", "close", "renew"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_engine_killed_at_any_write_repeats_nothing_that_succeeded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    """A stand-in for SIGKILL that leaves this process alive: the engine stops dead at each of its writes in turn."""
    given = bench.given()
    tasks = [task("a", given={**given, "n": 1}), task("b", "refuse" if step == "mark" else "echo", given=given)]
    run = bench.flows.start(bench.job(tasks))
    before = getattr(Journal, step)

    class DeadError(BaseException):
        pass

    def dies(*arguments: object, **options: object) -> None:
        if when == "after":
            before(*arguments, **options)
        raise DeadError

    deaths = 0
    for _ in range(3):
        monkeypatch.setattr(Journal, step, dies)
        try:
            bench.carry(run.run_id)
        except DeadError:
            deaths += 1
    monkeypatch.setattr(Journal, step, before)
    assert deaths
    run, _ = bench.carry(run.run_id)
    assert run.status is (RunStatus.FAILED if step == "mark" else RunStatus.SUCCEEDED)
    assert [line.split()[0] for line in bench.began()] == ["a", "b"]


def test_two_engines_on_one_run(bench: Bench) -> None:
    file = bench.folder / "there"
    run = bench.flows.start(bench.job([task("a", "hold", given=bench.given(file=str(file)))]))
    first = threading.Thread(target=bench.carry, args=(run.run_id,))
    first.start()
    eventually(bench.began)
    with pytest.raises(ConflictError, match="another process is already running"):
        bench.carry(run.run_id)
    file.touch()
    first.join()
    assert bench.shown(run.run_id)[0].status is RunStatus.SUCCEEDED
    assert bench.began() == ["a 1"]


def claimed(bench: Bench, run: Run, token: str, place: str) -> Run | None:
    with bench.flows.sql.begin() as connection:
        return runs.claim(connection, run.run_id, token, place)


def test_a_lease_keeps_engines_of_other_machines_out(sql_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = sql_bench
    run = bench.flows.start(bench.job([task("a", given=bench.given())]))
    assert claimed(bench, run, "theirs", "other:/state") is not None
    with pytest.raises(ConflictError, match="is under way elsewhere"):
        bench.carry(run.run_id)
    monkeypatch.setattr(journal, "LEASE_S", -1.0)
    Journal(bench.flows.sql, run, "theirs", "other:/state").renew()
    assert bench.shown(run.run_id)[0].interrupted
    monkeypatch.setattr(journal, "LEASE_S", 15.0)
    ours = claimed(bench, run, "ours", place_of(bench.state))
    assert ours is not None
    with pytest.raises(ConflictError, match="another engine has taken this run over"):
        Journal(bench.flows.sql, run, "theirs", "other:/state").renew()
    assert bench.carry(run.run_id)[0].status is RunStatus.SUCCEEDED  # this place's lock proves our own engine dead


def test_of_many_claims_for_different_runs_one_wins(sql_bench: Bench) -> None:
    """`max_concurrent_runs` over engines that start at the same moment."""
    bench = sql_bench
    made = [bench.flows.start(bench.job([task("a")])) for _ in range(4)]
    gate, won = threading.Barrier(4), []

    def go(run: Run) -> None:
        gate.wait()
        if claimed(bench, run, new_id(), "here") is not None:
            won.append(run.run_id)

    threads = [threading.Thread(target=go, args=(run,)) for run in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [made[0].run_id]


def test_a_run_is_cancelled_while_it_runs(sql_bench: Bench) -> None:
    bench = sql_bench
    run = bench.flows.start(bench.job([task("a", "slow", given=bench.given()), task("b")]))
    engine = threading.Thread(target=bench.carry, args=(run.run_id,))
    engine.start()
    eventually(bench.began)
    assert bench.flows.cancel(run.run_id).status is RunStatus.RUNNING
    engine.join(120)
    run, tasks = bench.shown(run.run_id)
    assert (run.status, run.cancelled_by) == (RunStatus.CANCELLED, "local")
    assert [one.status for one in tasks.values()] == [TaskStatus.CANCELLED, TaskStatus.CANCELLED]
    assert not alive(int(bench.notes.read_text().split()[-1]))


def test_a_stopped_engine_leaves_its_run_to_be_resumed(bench: Bench) -> None:
    file = bench.folder / "there"
    run = bench.flows.start(bench.job([task("a", "hold", given=bench.given(file=str(file)))]))
    engine = bench.flows.engine()
    thread = threading.Thread(target=engine.carry, args=(run.run_id,))
    thread.start()
    eventually(bench.began)
    engine.stop()
    thread.join(120)
    run, tasks = bench.shown(run.run_id)
    assert (run.shown, tasks["a"].status) == ("interrupted", TaskStatus.PENDING)
    file.touch()
    run, tasks = bench.carry(run.run_id)
    assert (run.status, bench.began()) == (RunStatus.SUCCEEDED, ["a 1", "a 2"])


def test_a_database_that_is_locked_for_a_while_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task ends while nothing can be written; its values are recorded once the lock is gone."""
    monkeypatch.setattr("llmops.core.sql.BUSY_TIMEOUT_S", 0.2)
    refused = threading.Event()
    monkeypatch.setattr(journal, "_log", SimpleNamespace(warning=lambda *_: refused.set()))
    hasty, file = Bench(bench.folder, bench.state), bench.folder / "there"
    held = task("a", "hold", given=hasty.given(file=str(file)))
    run = hasty.flows.start(hasty.job([held, task("b", given=hasty.given())]))
    engine = threading.Thread(target=hasty.carry, args=(run.run_id,))
    engine.start()
    eventually(hasty.began)
    locker = sqlite3.connect(bench.state.root / "state.db", isolation_level=None, timeout=60)
    locker.execute("BEGIN IMMEDIATE")
    refused.clear()
    file.touch()
    eventually(lambda: refused.is_set() and not alive(int(hasty.notes.read_text().split()[-1])))
    locker.execute("ROLLBACK")
    locker.close()
    engine.join(120)
    run, tasks = hasty.shown(run.run_id)
    hasty.flows.close()
    assert (run.status, tasks["a"].values) == (RunStatus.SUCCEEDED, {"held": True})
    assert hasty.began() == ["a 1", "b 1"]


def test_a_clock_that_goes_back_changes_no_duration(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Back(datetime):
        """Each look at the clock finds it an hour earlier."""

        looks = 0

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            cls.looks += 1
            return datetime.now(tz) - timedelta(hours=cls.looks)

    for module in (journal, runs):
        monkeypatch.setattr(module, "datetime", Back)
    run, tasks = bench.run([task("a", "slow", given={"s": 0.2}), task("b")])
    assert run.status is RunStatus.SUCCEEDED
    assert Back.looks > 4
    assert 0.2 < run.active_s < 3600
    assert tasks["a"].duration_s is not None
    assert 0.2 < tasks["a"].duration_s < run.active_s
