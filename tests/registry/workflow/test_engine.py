"""Runs from end to end: order, values, retries, gates, waiting, cancelling; over SQLite and PostgreSQL."""

from __future__ import annotations

import pytest
from tests.support.migrations import differences
from tests.support.workflows import Bench, task

from llmops.core.errors import ConfigError, UserError
from llmops.registry.workflow import RunStatus, TaskStatus, tables


def test_the_migration_makes_the_tables_that_the_code_defines(sql_bench: Bench) -> None:

    assert differences(sql_bench.flows.sql, tables.metadata) == []


def test_values_pass_from_task_to_task_with_their_types(sql_bench: Bench) -> None:
    bench = sql_bench
    run, tasks = bench.run(
        [
            task("train", given={"version": 3, "deep": {"list": [1, 2.5, None, True]}, "seed": "${params.seed}"}),
            task(
                "report",
                given={
                    "version": "${train.version}",
                    "second": "${train.deep.list.1}",
                    "whole": "${train.deep}",
                    "text": "${env}.fraud/${train.version} by ${run.workflow}, $${kept}",
                },
            ),
            task("hand", "whole", given={"seed": "${train.seed}"}),
        ],
        params={"seed": 7},
        overrides=("params.seed=8",),
    )
    assert run.status is RunStatus.SUCCEEDED
    assert tasks["report"].values == {
        "version": 3,
        "second": 2.5,
        "whole": {"list": [1, 2.5, None, True]},
        "text": "dev.fraud/3 by flow, ${kept}",
    }
    handed = tasks["hand"].values
    assert handed is not None
    assert handed["settings"] == {"seed": 8}
    assert handed["token"] == f"{run.run_id}/hand"
    assert (handed["attempt"], handed["catalog"], handed["principal"]) == (1, "dev", "local")
    assert handed["session"] is True
    assert handed["root"] == str(bench.state.root)
    assert handed["values"]["train"]["version"] == 3


def test_a_task_works_in_the_catalog_of_its_run(bench: Bench) -> None:
    run, tasks = bench.run([task("a", "surroundings")], ("env=staging",))
    assert run.catalog == "staging"
    assert tasks["a"].values == {"catalog": "staging", "name": "staging.fraud.clf"}


def test_a_failing_task_is_retried_then_ends_the_run(sql_bench: Bench) -> None:
    bench = sql_bench
    given = bench.given()
    run, tasks = bench.run([task("a", "fail", retries=2, given=given), task("b", given=given)])
    assert (run.status, run.exit_code) == (RunStatus.FAILED, 1)
    assert bench.began() == ["a 1", "a 2", "a 3"]
    assert (tasks["a"].failures, tasks["b"].status) == (3, TaskStatus.PENDING)
    assert run.error is not None
    assert (run.error.what, run.error.task) == ("ValueError: the data is odd", "a")
    assert "raise ValueError" in bench.log(tasks["a"])
    assert run.error.log == tasks["a"].log


def test_a_retry_that_succeeds_goes_on(bench: Bench) -> None:
    given = bench.given(until=3)
    run, tasks = bench.run([task("a", "flaky", retries=2, given=given), task("b", given={"n": "${a.attempt}"})])
    assert run.status is RunStatus.SUCCEEDED
    assert tasks["b"].values == {"n": 3}
    assert bench.began() == ["a 1", "a 2", "a 3"]


@pytest.mark.parametrize(
    ("function", "exit_code", "told"),
    [("refuse", 3, "recall fell to 0.41"), ("misuse", 1, "no such asset")],
)
def test_what_no_repetition_mends_is_not_repeated(bench: Bench, function: str, exit_code: int, told: str) -> None:
    run, _ = bench.run([task("a", function, retries=5, given=bench.given()), task("b")])
    assert (run.status, run.exit_code) == (RunStatus.FAILED, exit_code)
    assert bench.began() == ["a 1"]
    assert run.error is not None
    assert (run.error.what, run.error.task) == (told, "a")
    assert run.error.hint is not None
    if exit_code == 3:
        assert run.error.where == "dev.fraud.clf/2"
        with pytest.raises(UserError, match="refused by the gate of `a`"):
            bench.flows.repair(run.run_id)


def test_a_failed_run_is_repaired_from_where_it_failed(bench: Bench) -> None:
    given = bench.given()
    job = bench.job([task("a", given=given), task("b", "flaky", given={**given, "until": 2}), task("c", given=given)])
    run, _ = bench.carry(bench.flows.start(job).run_id)
    assert run.status is RunStatus.FAILED
    assert bench.flows.repair(run.run_id[:30]).status is RunStatus.QUEUED
    run, _ = bench.carry(run.run_id)
    assert run.status is RunStatus.SUCCEEDED
    assert bench.began() == ["a 1", "b 1", "b 2", "c 1"]
    with pytest.raises(UserError, match="the run succeeded"):
        bench.flows.repair(run.run_id)


def test_a_waiting_task_parks_the_run_without_a_process(sql_bench: Bench) -> None:
    bench = sql_bench
    file = bench.folder / "there"
    given = bench.given(file=str(file))
    run, tasks = bench.run([task("a", "wait", given=given), task("b", given=bench.given())])
    assert (run.status, tasks["a"].status) == (RunStatus.WAITING, TaskStatus.WAITING)
    assert run.reason == "a: the file is not there yet"
    assert run.wake_at == tasks["a"].wake_at
    run, tasks = bench.carry(run.run_id)
    assert (run.status, tasks["a"].attempts) == (RunStatus.WAITING, 2)
    bench.flows.engine().carry(run.run_id, ask=False)  # not before its time
    assert bench.shown(run.run_id)[1]["a"].attempts == 2
    file.touch()
    assert bench.flows.wake("other") == []
    assert bench.flows.wake("file") == [run.run_id]
    bench.flows.engine().carry(run.run_id, ask=False)
    run, tasks = bench.shown(run.run_id)
    assert run.status is RunStatus.SUCCEEDED
    assert bench.began() == ["a 1", "a 2", "a 3", "b 1"]


def test_a_wait_may_be_too_long(bench: Bench) -> None:
    given = {"file": str(bench.folder / "never"), "s": 0}
    run, tasks = bench.run([task("a", "wait", wait_s=0.01, given=given)])
    assert run.status is RunStatus.WAITING
    run, tasks = bench.carry(run.run_id)
    assert (run.status, tasks["a"].attempts) == (RunStatus.FAILED, 2)
    assert run.error is not None
    assert run.error.what == "waited longer than 0.01 s: the file is not there yet"


def test_independent_tasks_run_side_by_side(bench: Bench) -> None:
    folder = bench.folder / "met"
    folder.mkdir()
    given = {"folder": str(folder)}
    tasks = [
        task("a", "meet", needs=[], given=given),
        task("b", "meet", needs=[], given=given),
        task("c", needs=["a", "b"]),
    ]
    run, stands = bench.run(tasks)
    assert run.status is RunStatus.SUCCEEDED
    assert stands["c"].status is TaskStatus.SUCCEEDED


def test_one_at_a_time_where_that_is_asked(bench: Bench) -> None:
    given = bench.given()
    run, tasks = bench.run([task(name, needs=[], given=given) for name in "abc"], max_parallel=1)
    assert run.status is RunStatus.SUCCEEDED
    assert bench.began() == ["a 1", "b 1", "c 1"]
    ends = [tasks[name].ended_at for name in "abc"]
    starts = [tasks[name].started_at for name in "bc"]
    assert all(end <= start for end, start in zip(ends, starts, strict=False) if end and start)


def test_a_condition_skips_a_task_and_whatever_needs_it(bench: Bench) -> None:
    run, tasks = bench.run(
        [
            task("check", given={"violated": False, "count": 2}),
            task("retrain", when="${check.violated}", given=bench.given()),
            task("after", given=bench.given()),
            task("always", needs=["check"], when="${check.count}"),
        ]
    )
    assert run.status is RunStatus.SUCCEEDED
    assert [one.status.value for one in tasks.values()] == ["succeeded", "skipped", "skipped", "succeeded"]
    assert tasks["retrain"].reason == "`${check.violated}` does not hold"
    assert bench.began() == []


def test_handlers_run_after_a_failure_and_know_of_it(bench: Bench) -> None:
    handler = task(
        "clean", given={"what": "${failure.what}", "task": "${failure.task}", "n": "${a.n}", "none": "${b.x}"}
    )
    run, tasks = bench.run([task("a", given={"n": 1}), task("b", "refuse")], on_failure=[handler, task("more")])
    assert (run.status, run.exit_code) == (RunStatus.FAILED, 3)
    assert tasks["clean"].values == {"what": "recall fell to 0.41", "task": "b", "n": 1, "none": None}
    assert tasks["more"].status is TaskStatus.SUCCEEDED


def test_handlers_do_not_run_after_success(bench: Bench) -> None:
    run, tasks = bench.run([task("a")], on_failure=[task("clean", given=bench.given())])
    assert run.status is RunStatus.SUCCEEDED
    assert tasks["clean"].status is TaskStatus.PENDING
    assert bench.began() == []


def test_a_missing_value_is_told_with_the_nearest(bench: Bench) -> None:
    run, tasks = bench.run([task("train", given={"version": 3}), task("deploy", given={"v": "${train.versoin}"})])
    assert run.error is not None
    assert run.error.what == "`${train.versoin}`: `train` has no `versoin`"
    assert run.error.where == "task `deploy`, with.v"
    assert run.error.hint == "did you mean `version`?"
    assert tasks["deploy"].status is TaskStatus.FAILED


def test_a_missing_module_is_told_before_anything_runs(bench: Bench) -> None:
    tasks = [task("a", given=bench.given()), {"name": "b", "run": "no.such.module:x"}]
    with pytest.raises(ConfigError, match="there is no module `no"):
        bench.flows.start(bench.job(tasks))
    run, _ = bench.run([task("a", "nope")])
    assert run.error is not None
    assert "has no function `nope`" in run.error.what


def test_a_second_run_waits_in_a_queue(sql_bench: Bench) -> None:
    bench = sql_bench
    file = bench.folder / "there"
    tasks = [task("a", "wait", given={"file": str(file)})]
    first, _ = bench.run(tasks)
    second = bench.flows.start(bench.job(tasks))
    third = bench.flows.start(bench.job(tasks))
    assert bench.carry(second.run_id)[0].status is RunStatus.QUEUED
    blocker = bench.flows.blocker(second)
    assert blocker is not None
    assert blocker.run_id == first.run_id
    file.touch()
    bench.carry(first.run_id)
    assert bench.carry(third.run_id)[0].status is RunStatus.QUEUED  # not before the second
    assert bench.carry(second.run_id)[0].status is RunStatus.SUCCEEDED
    assert bench.carry(third.run_id)[0].status is RunStatus.SUCCEEDED


def test_the_same_again_is_the_unfinished_run(bench: Bench) -> None:
    file = bench.folder / "there"
    tasks = [task("a", "wait", given={"file": str(file)})]
    job = bench.job(tasks, params={"x": 1})
    run = bench.flows.start_or_resume(job)
    bench.carry(run.run_id)
    assert bench.flows.start_or_resume(job).run_id == run.run_id
    other = bench.flows.start_or_resume(bench.job(tasks, ("params.x=2",), params={"x": 1}))
    assert other.run_id != run.run_id
    file.touch()
    bench.carry(run.run_id)
    assert bench.flows.start_or_resume(job).run_id != run.run_id


def test_a_parked_or_queued_run_is_cancelled_at_once(sql_bench: Bench) -> None:
    bench = sql_bench
    tasks = [task("a", "wait", given={"file": str(bench.folder / "there")}), task("b")]
    first, _ = bench.run(tasks)
    second = bench.flows.start(bench.job(tasks))
    for run in (second, first):
        cancelled = bench.flows.cancel(run.run_id)
        assert (cancelled.status, cancelled.cancelled_by, cancelled.exit_code) == (RunStatus.CANCELLED, "local", 1)
    assert {one.status for one in bench.shown(first.run_id)[1].values()} == {TaskStatus.CANCELLED}
    with pytest.raises(UserError, match="the run is cancelled"):
        bench.flows.cancel(first.run_id)
    assert bench.carry(first.run_id)[0].status is RunStatus.CANCELLED
