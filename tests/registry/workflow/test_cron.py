"""Crontab lines as crontab means them, over changes of the clock; each time starts one run, whatever happens."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.workflows import Bench, task

from llmops.registry.workflow import Job, RunStatus, Workflows
from llmops.registry.workflow.cron import Cron
from llmops.registry.workflow.schedule import tick, upcoming


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def fires(cron: Cron, start: str, count: int) -> list[str]:
    found, moment = [], at(start)
    for _ in range(count):
        following = cron.after(moment)
        assert following is not None
        moment = following
        found.append(f"{moment:%m-%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 9 * * *", ["11-29 09:00", "11-30 09:00", "12-01 09:00"]),
        ("0 9 * * 1", ["11-30 09:00", "12-07 09:00", "12-14 09:00"]),  # Monday, not APScheduler's Tuesday
        ("0 9 * * 0", ["11-29 09:00", "12-06 09:00", "12-13 09:00"]),
        ("0 9 * * 7", ["11-29 09:00", "12-06 09:00", "12-13 09:00"]),
        ("0 9 * * sun", ["11-29 09:00", "12-06 09:00", "12-13 09:00"]),
        ("0 9 * * 5-7", ["11-29 09:00", "12-04 09:00", "12-05 09:00"]),
        ("0 9 * * */2", ["11-29 09:00", "12-01 09:00", "12-03 09:00"]),
        ("*/20 3 * * *", ["11-29 03:00", "11-29 03:20", "11-29 03:40"]),
        ("0 0 1 * 1", ["11-30 00:00", "12-01 00:00", "12-07 00:00"]),  # the first, or a Monday
        ("30 4 29 feb *", ["02-29 04:30", "02-29 04:30", "02-29 04:30"]),
        ("@daily", ["11-30 00:00", "12-01 00:00", "12-02 00:00"]),
    ],
)
def test_lines_mean_what_crontab_means(line: str, expected: list[str]) -> None:
    assert fires(Cron(line), "2026-11-29 00:00", 3) == expected


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0 9 * *", "has 4 fields"),
        ("60 9 * * *", "no minute"),
        ("0 9 0 * *", "no day"),
        ("0 9 * 13 *", "no month"),
        ("0 9 * * 8", "no weekday"),
        ("0 9 * * fry", "no weekday"),
        ("5-1 9 * * *", "first before last"),
        ("*/0 * * * *", "no minute"),
        ("0 9 31 2 *", "never fires"),
    ],
)
def test_what_is_no_line_is_told(line: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Cron(line)
    with pytest.raises(ValueError, match="there is no time zone `Europe/Berln`"):
        Cron("0 9 * * *", "Europe/Berln")


def test_a_day_without_the_hour_and_one_with_it_twice_fire_once() -> None:
    berlin = Cron("30 2 * * *", "Europe/Berlin")
    assert fires(berlin, "2026-03-27 12:00", 3) == ["03-28 01:30", "03-29 01:30", "03-30 00:30"]  # 29th: 03:30 local
    assert fires(berlin, "2026-10-23 12:00", 4) == ["10-24 00:30", "10-25 00:30", "10-26 01:30", "10-27 01:30"]
    hourly = Cron("0 * * * *", "Europe/Berlin")
    assert fires(hourly, "2026-10-25 00:30", 3) == ["10-25 01:00", "10-25 02:00", "10-25 03:00"]  # every real hour


LINES = st.builds(
    lambda *fields: " ".join(fields),
    st.sampled_from(["0", "30", "*/15", "5,50", "*"]),
    st.sampled_from(["*", "2", "*/6", "1-3"]),
    st.sampled_from(["*", "1", "15,29", "*/10"]),
    st.sampled_from(["*", "3", "oct", "*/5"]),
    st.sampled_from(["*", "1-5", "0", "sat,sun"]),
)
MOMENTS = st.integers(0, 365 * 24 * 60).map(lambda minutes: at("2026-01-01") + timedelta(minutes=minutes))


@given(LINES, st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"]), MOMENTS)
def test_times_go_forward_and_fit_the_line(line: str, zone: str, moment: datetime) -> None:
    cron = Cron(line, zone)
    times = [moment]
    for _ in range(4):
        following = cron.after(times[-1])
        assert following is not None
        times.append(following)
    assert all(earlier < later for earlier, later in pairwise(times))
    assert cron.due(moment, times[-1]) == times[-1]
    assert cron.due(times[1], times[2] - timedelta(seconds=1)) is None
    for time in times[1:]:
        local = time.astimezone(cron.zone)
        assert cron.fields["minute"] is None or local.minute in cron.fields["minute"] or _skipped(time, cron)


def _skipped(time: datetime, cron: Cron) -> bool:
    """Whether the clock was put forward just before: the time that was skipped is made up for at another minute."""
    before = (time - timedelta(hours=2)).astimezone(cron.zone)
    return before.utcoffset() != time.astimezone(cron.zone).utcoffset()


def daily(bench: Bench, **more: object) -> Job:
    schedule = {"cron": "0 9 * * *", **{key: more.pop(key) for key in ("misfire_s",) if key in more}}
    return bench.job([task("a")], schedule=schedule, **more)


def test_a_schedule_starts_each_time_once(sql_bench: Bench) -> None:
    flows, job = sql_bench.flows, daily(sql_bench, max_concurrent_runs=9)
    assert tick(flows, job, now=at("2026-11-29 10:00")) is None  # the first look makes up for nothing
    assert tick(flows, job, now=at("2026-11-30 08:59")) is None
    run = tick(flows, job, now=at("2026-11-30 09:00"))
    assert run is not None
    assert (run.cause.means, run.cause.key) == ("schedule", "schedule:2026-11-30T09:00:00+00:00")
    assert tick(flows, job, now=at("2026-11-30 09:00")) is None
    assert tick(flows, job, now=at("2026-11-30 07:00")) is None  # the clock goes back
    assert tick(flows, job, now=at("2026-11-30 09:30")) is None
    sql_bench.carry(run.run_id)
    late = tick(flows, job, now=at("2026-12-05 20:00"))  # five were missed: one run
    assert late is not None
    assert late.cause.key == "schedule:2026-12-05T09:00:00+00:00"
    assert tick(flows, job, now=at("2026-12-05 20:01")) is None
    assert len(flows.list("flow")) == 2


def test_a_run_still_in_the_queue_stands_for_the_next_time_too(bench: Bench) -> None:
    flows, job = bench.flows, daily(bench)
    tick(flows, job, now=at("2026-11-29 10:00"))
    assert tick(flows, job, now=at("2026-11-30 09:00")) is not None
    assert tick(flows, job, now=at("2026-12-01 09:00")) is None
    assert len(flows.list("flow")) == 1


def test_a_start_that_is_too_old_is_let_go(bench: Bench) -> None:
    flows, job = bench.flows, daily(bench, misfire_s=3600)
    tick(flows, job, now=at("2026-11-29 10:00"))
    assert tick(flows, job, now=at("2026-11-30 11:00")) is None
    assert tick(flows, job, now=at("2026-12-01 09:30")) is not None


def test_many_schedulers_start_one_run(sql_bench: Bench) -> None:
    bench = sql_bench
    job = daily(bench)
    tick(bench.flows, job, now=at("2026-11-29 10:00"))
    gate, started = threading.Barrier(4), []

    def look() -> None:
        with Workflows(bench.state) as flows:
            gate.wait()
            started.append(tick(flows, job, now=at("2026-11-30 09:00")))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([run for run in started if run is not None]) == 1
    assert [run.status for run in bench.flows.list("flow")] == [RunStatus.QUEUED]


def test_what_comes_next_is_told_in_local_time(bench: Bench) -> None:
    job = bench.job([task("a")], schedule={"cron": "0 9 * * *", "timezone": "Europe/Berlin"})
    times = upcoming(job, now=at("2026-03-28 00:00"))
    assert times == ["2026-03-28T09:00:00+01:00", "2026-03-29T09:00:00+02:00", "2026-03-30T09:00:00+02:00"]
    assert upcoming(bench.job([task("a")])) == []
