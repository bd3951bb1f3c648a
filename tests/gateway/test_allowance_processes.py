"""Real processes over a real store: budgets raced for, and processes killed at any moment."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.allowance_clients import Job, Place, spend_until_killed, spend_until_refused
from tests.support.allowances import quick_folder
from tests.support.redis import RedisServer, redis_server

from llmops.gateway.allowance.exchange import UsageRow
from llmops.gateway.allowance.reclaim import reclaim
from llmops.gateway.calls import Meter

FORK = multiprocessing.get_context("fork")
DOLLAR = 1_000_000_000
KILLS = 60 if os.environ.get("LLMOPS_SOAK") == "1" else 8
TOTAL = Meter("key:k", "usd", DOLLAR, "total")


@pytest.fixture
def folder() -> Iterator[Path]:
    made = quick_folder()
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def race(jobs: list[Job]) -> list[tuple[int, int]]:
    pipes, processes = [], []
    for job in jobs:
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=spend_until_refused, args=(job, theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    used = []
    for pipe, process in zip(pipes, processes, strict=True):
        assert pipe.poll(120)
        used.append(pipe.recv())
        process.join(60)
        assert process.exitcode == 0
    return used


def booked(place: Place) -> dict[str, UsageRow]:
    async def read() -> list[UsageRow]:
        store = place.store()
        try:
            return await store.usage()
        finally:
            await store.close()

    return {row.meter: row for row in asyncio.run(read())}


def settle_dead(place: Place) -> int:
    async def run() -> int:
        store = place.store()
        try:
            return await reclaim(store, place.folder)
        finally:
            await store.close()

    return asyncio.run(run())


def check_race(places: list[Place]) -> None:
    worst = DOLLAR // 100
    team = Meter("team:t", "usd", 2 * DOLLAR, "total")
    used = race([Job(place, (TOTAL, team), 5, worst, seed) for seed, place in enumerate(places)])
    spent = sum(nano for nano, _ in used)
    row = booked(places[0])[TOTAL.id]
    assert spent <= DOLLAR
    assert spent >= DOLLAR - 20 * worst  # one worst case for each client may be left
    assert (row.spent, row.leased) == (spent, 0)
    assert booked(places[0])[team.id].spent == spent


def test_four_processes_race_for_a_budget(folder: Path) -> None:
    check_race([Place(folder)] * 4)


@pytest.mark.redis
def test_two_machines_race_for_a_budget(folder: Path, redis: RedisServer) -> None:
    check_race([Place(folder / name, redis.url) for name in ("one", "two", "one", "two")])


def test_a_minute_admits_its_requests_and_no_more(folder: Path) -> None:
    requests = Meter("key:k", "requests", 50)
    used = race([Job(Place(folder), (requests,), 10, 0, seed) for seed in range(4)])
    assert sum(count for _, count in used) == 50


@pytest.mark.kill
def test_killed_processes_lose_nothing_but_what_was_under_way(folder: Path) -> None:
    """Of each dead process: what it settled is spent, what it had under way is spent whole, the rest is free again."""
    place = Place(folder)
    worst = 1_000_000
    meter = Meter("key:k", "usd", DOLLAR, "total")
    least = most = 0
    for round_ in range(KILLS):
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=spend_until_killed, args=(place, (meter,), worst, theirs))
        process.start()
        theirs.close()
        chance = random.Random(round_)
        begun = os.read(ours.fileno(), 1) if round_ % 4 else b""  # else it is killed while it begins
        time.sleep(chance.uniform(0.0, 0.25))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        low, high = _account(begun + _drain(ours.fileno()), worst)
        ours.close()
        least, most = least + low, most + high
        settle_dead(place)
        row = booked(place).get(meter.id)
        if row is not None:
            assert row.leased == 0
            assert least <= row.spent <= most, round_
    assert list((folder / "leases").iterdir()) == []
    assert most > 0


def _drain(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _account(told: bytes, worst: int) -> tuple[int, int]:
    """The least and the most that a process can have spent by what it told until it died."""
    spent = 0
    last = ""
    nano = 0
    for line in told.decode().split("\n")[:-1]:
        last = line[:1]
        if last == "S":
            nano = int(line[1:])
        elif last == "s":
            spent += nano
    return {
        "": (spent, spent),
        "R": (spent, spent + worst),
        "r": (spent + worst, spent + worst),
        "S": (spent + nano, spent + worst),
        "s": (spent, spent + 0),
    }[last]
