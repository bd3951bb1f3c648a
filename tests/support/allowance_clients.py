"""Processes that spend an allowance as workers do, and say what they truly used."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from llmops.gateway.allowance.desk import DeskConfig
from llmops.gateway.allowance.exchange import Store
from llmops.gateway.allowance.reclaim import machine_of
from llmops.gateway.allowance.redis_store import RedisStore
from llmops.gateway.allowance.shared import SharedAllowances
from llmops.gateway.allowance.sqlite_store import SqliteStore
from llmops.gateway.calls import Meter, Refused


@dataclass(frozen=True)
class Place:
    """Where a worker keeps its state, and which store it shares."""

    folder: Path
    redis_url: str | None = None

    def store(self) -> Store:
        if self.redis_url is None:
            return SqliteStore(self.folder)
        return RedisStore(self.redis_url, self.folder, machine_of(self.folder))

    def open(self, lease_nano: int = 500_000_000) -> SharedAllowances:
        return SharedAllowances(self.store(), self.folder, DeskConfig(lease_nano=lease_nano))


@dataclass(frozen=True)
class Job:
    """What one process does: so many clients, each asking again until it is refused for good."""

    place: Place
    meters: tuple[Meter, ...]
    clients: int
    worst_nano: int
    seed: int
    tokens: int = 1
    pause_s: float = 0.002


def spend_until_refused(job: Job, told: Connection) -> None:
    """Tells (nano-dollars, requests) that were used, when every client has been refused three times in a row."""
    told.send(asyncio.run(_spend(job)))


async def _spend(job: Job) -> tuple[int, int]:
    allowances = job.place.open()
    await allowances.start()
    used = [0, 0]
    chance = random.Random(job.seed)

    async def client() -> None:
        refused = 0
        while refused < 3:
            try:
                held = allowances.try_reserve(job.meters, job.worst_nano, job.tokens)
                if held is None:
                    held = await allowances.reserve(job.meters, job.worst_nano, job.tokens)
            except Refused:
                refused += 1
                await asyncio.sleep(0.2)
                continue
            refused = 0
            await asyncio.sleep(job.pause_s * chance.random())
            nano = chance.randint(job.worst_nano // 4, job.worst_nano)
            held.settle(nano, job.tokens)
            used[0] += nano
            used[1] += 1

    try:
        await asyncio.gather(*[client() for _ in range(job.clients)])
    finally:
        await allowances.close()
    return used[0], used[1]


def spend_until_killed(place: Place, meters: tuple[Meter, ...], worst_nano: int, shared: Connection) -> None:
    """Writes each reservation and settlement to a pipe as bytes before and after it, until SIGKILL.

    `R` before a reservation is tried, `r` after it was had, `S` and the used part before it is settled.
    """
    asyncio.run(_spend_on(place, meters, worst_nano, shared.fileno()))


async def _spend_on(place: Place, meters: tuple[Meter, ...], worst_nano: int, pipe: int) -> None:
    allowances = place.open(lease_nano=20 * worst_nano)
    await allowances.start()
    chance = random.Random(os.getpid())
    while True:
        os.write(pipe, b"R\n")
        held = allowances.try_reserve(meters, worst_nano, 1)
        if held is None:
            held = await allowances.reserve(meters, worst_nano, 1)
        os.write(pipe, b"r\n")
        if chance.random() < 0.1:
            await asyncio.sleep(0.001)
        nano = chance.randint(0, worst_nano)
        os.write(pipe, b"S%d\n" % nano)
        held.settle(nano, 1)
        os.write(pipe, b"s\n")
