"""Coarse time: never early, not moved by a loop that stood still, and cheap to arm."""

from __future__ import annotations

import asyncio
import time
from email.utils import parsedate_to_datetime

import pytest
from tests.support.wire import run, until

from llmops.gateway.http.timers import NEVER, Timers


class Thing:
    def __init__(self, deadline: float = NEVER) -> None:
        self.deadline = deadline
        self.expired = 0

    def expire(self) -> None:
        self.expired += 1
        self.deadline = NEVER


def test_a_deadline_is_never_early_and_met_once() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        timers = Timers(loop, 0.01)
        things = [Thing(timers.now + 0.05 * number) for number in range(1, 5)]
        begun = loop.time()
        for thing in things:
            timers.watch(thing)
        for number, thing in enumerate(things, start=1):
            await until(lambda thing=thing: thing.expired)
            assert loop.time() - begun >= 0.05 * number
        assert [thing.expired for thing in things] == [1, 1, 1, 1]
        timers.close()

    run(work())


def test_a_deadline_may_be_moved_and_a_thing_forgotten() -> None:
    async def work() -> None:
        timers = Timers(asyncio.get_running_loop(), 0.01)
        moved, forgotten, marker = Thing(timers.now + 0.03), Thing(timers.now + 0.03), Thing(timers.now + 0.1)
        for thing in (moved, forgotten, marker):
            timers.watch(thing)
        moved.deadline = NEVER
        timers.forget(forgotten)
        timers.forget(forgotten)
        await until(lambda: marker.expired)
        assert (moved.expired, forgotten.expired) == (0, 0)
        timers.close()

    run(work())


def test_time_that_the_loop_stood_still_is_held_against_nobody() -> None:
    async def work() -> None:
        timers = Timers(asyncio.get_running_loop(), 0.02)
        thing = Thing(timers.now + 0.4)
        timers.watch(thing)
        before = timers.now
        time.sleep(1.0)  # noqa: ASYNC251 - a loop that does not turn
        await until(lambda: timers.now > before)
        assert timers.now - before < 0.4
        assert not thing.expired
        await until(lambda: thing.expired)
        timers.close()

    run(work())


def test_one_failure_does_not_keep_others_from_their_deadline(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Thing):
        def expire(self) -> None:
            super().expire()
            raise ZeroDivisionError

    async def work() -> None:
        timers = Timers(asyncio.get_running_loop(), 0.01)
        things = [Broken(timers.now), Thing(timers.now), Broken(timers.now), Thing(timers.now)]
        for thing in things:
            timers.watch(thing)
        await until(lambda: all(thing.expired for thing in things))
        timers.close()

    run(work())
    assert "ZeroDivisionError" in caplog.text


def test_the_date_is_a_header_line_and_goes_on() -> None:
    async def work() -> None:
        timers = Timers(asyncio.get_running_loop(), 0.01)
        first = timers.date
        assert first.startswith(b"date: ")
        assert first.endswith(b" GMT\r\n")
        assert abs(parsedate_to_datetime(first[6:-2].decode()).timestamp() - time.time()) < 30
        await until(lambda: timers.date != first)
        timers.close()

    run(work())
