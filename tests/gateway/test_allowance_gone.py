"""The shared store goes away, comes back, or comes back having forgotten: nobody overspends, and it mends itself."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.allowances import quick_folder
from tests.support.control import config_of
from tests.support.redis import RedisServer, redis_server

from llmops.core.errors import ConfigError
from llmops.gateway.allowance import StoreGone, forgive_machines, shared
from llmops.gateway.allowance.desk import DeskConfig
from llmops.gateway.allowance.exchange import Ask, Tally
from llmops.gateway.allowance.reclaim import machine_of
from llmops.gateway.allowance.redis_store import RedisStore
from llmops.gateway.allowance.resp import Connection, RedisAddress, RedisError
from llmops.gateway.allowance.shared import SharedAllowances
from llmops.gateway.allowance.sqlite_store import SqliteStore
from llmops.gateway.calls import Meter, Refused

BUDGET = (Meter("key:k", "usd", 1000, "total"),)
LIMIT = (Meter("key:k", "requests", 100),)
SLOTS = (Meter("key:k", "concurrent", 100),)
DEADLINE_S = 90


@pytest.fixture
def folder() -> Iterator[Path]:
    made = quick_folder()
    yield made
    shutil.rmtree(made)


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await check():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.02)


def opened(server: RedisServer, folder: Path, **config: object) -> SharedAllowances:
    settings = DeskConfig(lease_nano=400, **config)  # type: ignore[arg-type]
    return SharedAllowances(RedisStore(server.url, folder, machine_of(folder)), folder, settings)


async def answers(allowances: SharedAllowances, meters: tuple[Meter, ...], nano: int = 1) -> bool:
    try:
        (await allowances.reserve(meters, nano, 1)).settle(nano, 1)
    except StoreGone:
        return False
    return True


@pytest.mark.redis
@pytest.mark.parametrize("when", ["killed", "hangs"])
def test_without_a_store_budgets_refuse_and_limits_allow(folder: Path, when: str) -> None:
    async def run(server: RedisServer) -> None:
        allowances = opened(server, folder, when_gone={"budgets": "refuse", "limits": "allow"})
        await allowances.start()
        first = await allowances.reserve(BUDGET, 100, 1)
        server.kill() if when == "killed" else server.pause()
        held = []
        with pytest.raises(StoreGone) as gone:  # what is leased already may be spent to its end
            while True:
                held.append(allowances.try_reserve(BUDGET, 100, 1) or await allowances.reserve(BUDGET, 100, 1))
        assert gone.value.error_code == "allowance_store_gone"
        assert gone.value.http_status == 503
        assert "budget of $0.000001 in all of key `k`" in gone.value.what
        assert len(held) < 10
        await until(lambda: _gone(allowances))
        (await allowances.reserve(LIMIT, 0, 1)).settle(0, 1)
        (await allowances.reserve(SLOTS, 0, 1)).release()
        server.start() if when == "killed" else server.resume()
        await until(lambda: answers(allowances, BUDGET))
        for reservation in [first, *held]:
            reservation.settle(50, 1)
        await allowances.close()
        store = RedisStore(server.url, folder, machine_of(folder))
        spent = {row.meter: row.spent for row in await store.usage()}
        await store.close()
        assert spent[BUDGET[0].id] == 50 * (1 + len(held)) + 1

    with redis_server(persistent=True) as server:
        asyncio.run(run(server))


async def _gone(allowances: SharedAllowances) -> bool:
    return allowances.gone


@pytest.mark.redis
def test_allowed_budgets_are_booked_when_the_store_is_back(folder: Path) -> None:
    async def run(server: RedisServer) -> None:
        server.kill()
        allowances = opened(server, folder, when_gone={"budgets": "allow", "limits": "refuse"})
        await allowances.start()
        await until(lambda: _gone(allowances))
        reservation = await allowances.reserve(BUDGET, 700, 1)
        with pytest.raises(StoreGone):
            await allowances.reserve(LIMIT, 0, 1)
        reservation.settle(600, 1)
        server.start()
        await until(lambda: _back(allowances))
        with pytest.raises(Refused, match="is reached"):
            await allowances.reserve(BUDGET, 500, 1)
        (await allowances.reserve(BUDGET, 400, 1)).settle(400, 1)
        await allowances.close()

    with redis_server(persistent=True) as server:
        asyncio.run(run(server))


async def _back(allowances: SharedAllowances) -> bool:
    return not allowances.gone


@pytest.mark.redis
@pytest.mark.parametrize("persistent", [True, False])
def test_a_restarted_server_is_told_what_was_spent_before_it_grants(folder: Path, persistent: bool) -> None:
    """Two machines spend; the server dies, with its data or without; the budget goes on where it was."""

    async def run(server: RedisServer) -> None:
        one, two = opened(server, folder / "one"), opened(server, folder / "two")
        await one.start()
        await two.start()
        (await one.reserve(BUDGET, 300, 1)).settle(250, 1)
        (await two.reserve(BUDGET, 300, 1)).settle(250, 1)
        under_way = await two.reserve(BUDGET, 200, 1)
        await one._store.exchange(one.holder, [])  # any exchange tells it of the other machine
        assert await _knows(folder / "one", machine_of(folder / "two"))
        server.kill()
        await two.close(wait_s=0.2)  # it cannot tell what it holds; its machine is silent for now
        server.start()
        await until(lambda: _refuses(one, machine_of(folder / "two")))
        two = opened(server, folder / "two")  # its next start settles what the last one left
        await two.start()
        await until(lambda: _counted(one))
        await until(lambda: answers(two, BUDGET))
        with pytest.raises(Refused):
            await one.reserve(BUDGET, 300, 1)  # 250 + 250 + 200 under way at its death + 1
        (await one.reserve(BUDGET, 299, 1)).settle(299, 1)
        with pytest.raises(Refused, match="it never begins anew"):
            await two.reserve(BUDGET, 1, 1)
        under_way.settle(0, 0)  # of a worker that is no more: changes nothing
        await one.close()
        rows = {row.meter: row for row in await two._store.usage()}
        assert (rows[BUDGET[0].id].spent, rows[BUDGET[0].id].leased) == (1000, 0)
        await two.close()

    with redis_server(persistent=persistent) as server:
        asyncio.run(run(server))


async def _knows(folder: Path, machine: str) -> bool:
    store = SqliteStore(folder)  # any connection to the mirror does
    store._path = folder / "allowance-mirror.db"
    with store._reading() as connection:
        known = {row[0] for row in connection.execute("select name from machines")}
    store.close_now()
    return machine in known


async def _refuses(allowances: SharedAllowances, because: str) -> bool:
    """Whether it cannot have more than it holds, for this reason."""
    try:
        held = await allowances.reserve(BUDGET, 900, 1)
    except StoreGone as error:
        return because in error.what
    except Refused:
        return False
    held.release()
    return False


@pytest.mark.redis
def test_a_flushed_database_is_told_again(folder: Path) -> None:
    """The server lives on, with nothing in it: as after a restart, both machines tell before anything is granted."""

    async def run(server: RedisServer) -> None:
        one, two = opened(server, folder / "one"), opened(server, folder / "two")
        await one.start()
        await two.start()
        (await one.reserve(BUDGET, 300, 1)).settle(250, 1)
        under_way = await two.reserve(BUDGET, 300, 1)
        await one._store.exchange(one.holder, [])  # any exchange tells it of the other machine
        assert await _knows(folder / "one", machine_of(folder / "two"))
        other = Connection(RedisAddress.parse(server.url))
        await other.script(b"return redis.call('FLUSHALL')", [], [])
        await other.close()
        await until(lambda: _counted(one))
        under_way.settle(300, 1)
        await two.close()
        (await one.reserve(BUDGET, 450, 1)).settle(450, 1)
        with pytest.raises(Refused, match="never begins anew"):
            await one.reserve(BUDGET, 1, 1)
        await one.close()

    with redis_server() as server:
        asyncio.run(run(server))


async def _counted(allowances: SharedAllowances) -> bool:
    """Whether the store trusts its data again, and what was spent and is under way is in them."""
    try:
        held = await allowances.reserve(BUDGET, 600, 1)
    except StoreGone:
        return False
    except Refused:
        return True
    held.release()
    raise AssertionError("the budget began anew")


@pytest.mark.redis
def test_an_operator_may_forgive_a_machine_that_is_gone_for_good(folder: Path) -> None:
    async def run(server: RedisServer) -> None:
        job = config_of(folder, store={"redis_url": server.url})
        one, two = opened(server, job.folder), opened(server, folder / "two")
        await one.start()
        await two.start()
        (await two.reserve(BUDGET, 300, 1)).settle(300, 1)
        await two.close()
        (await one.reserve(BUDGET, 300, 1)).settle(300, 1)
        await one._store.exchange(one.holder, [])  # any exchange tells it of the other machine
        assert await _knows(job.folder, machine_of(folder / "two"))
        server.kill()
        server.start()
        await until(lambda: _refuses(one, machine_of(folder / "two")))
        lost = [machine_of(folder / "two")]
        assert await forgive_machines(job, plan=True) == lost
        await until(lambda: _refuses(one, *lost))  # still
        assert await forgive_machines(job, plan=False) == lost
        await until(lambda: _counted(one))
        assert await forgive_machines(job, plan=True) == []
        await one.close()

    with redis_server() as server:
        asyncio.run(run(server))


def test_a_broken_database_file_is_a_gone_store(folder: Path) -> None:
    async def run() -> None:
        (folder / "allowance.db").write_bytes(b"not a database" * 1000)
        allowances = SharedAllowances(SqliteStore(folder), folder, DeskConfig())
        await allowances.start()
        with pytest.raises(StoreGone, match="not a database"):
            await allowances.reserve(BUDGET, 1, 1)
        (folder / "allowance.db").unlink()
        await until(lambda: answers(allowances, BUDGET))
        await allowances.close()

    asyncio.run(run())


@pytest.mark.redis
def test_the_client_speaks_to_a_real_server_and_hides_the_password(folder: Path) -> None:
    async def run(server: RedisServer) -> None:
        connection = Connection(RedisAddress.parse(server.url))
        assert await connection.script(b"return {1, 'two', {}, false}", [], []) == [1, b"two", [], None]
        big = "x" * 3_000_000
        assert await connection.script(b"return ARGV[1]", [], [big]) == big.encode()
        with pytest.raises(RedisError, match="went wrong"):
            await connection.script(b"return redis.error_reply('went wrong')", [], [])
        await connection.close()
        wrong = Connection(RedisAddress.parse(f"unix://:s3cret@{server.socket}"))
        with pytest.raises(RedisError) as refused:
            await wrong.connect()
        assert "s3cret" not in str(refused.value) + repr(wrong.address)

    with redis_server() as server:
        asyncio.run(run(server))


@pytest.mark.redis
def test_a_server_that_takes_no_more_writes_is_looked_for_anew() -> None:
    async def run(server: RedisServer) -> None:
        connection, watcher = (Connection(RedisAddress.parse(server.url)) for _ in range(2))

        async def connections() -> int:
            told = await watcher.script(b"return redis.call('info', 'stats')", [], [])
            return int(told.partition(b"total_connections_received:")[2].split()[0])

        write = b"return redis.call('set', KEYS[1], 'x')"
        await connection.script(write, ["a"], [])
        demote()
        before = await connections()
        for _ in range(2):
            with pytest.raises(RedisError, match="READONLY"):
                await connection.script(write, ["a"], [])
        assert await connections() == before + 1
        await connection.close()
        await watcher.close()

    def demote() -> None:
        command = ["redis-cli", "-s", server.socket, "replicaof", "127.0.0.1", "9"]
        subprocess.run(command, check=True, capture_output=True)

    with redis_server() as server:
        asyncio.run(run(server))


def test_an_address_that_is_none_is_refused_without_being_shown() -> None:
    assert RedisAddress.parse("rediss://u:p%40@h:1/2") == RedisAddress("h", 1, 2, "u", "p@", tls=True)
    for url in ("http://secret@h", "redis://", "redis://h:port:secret", "secret"):
        with pytest.raises(ConfigError) as error:
            RedisAddress.parse(url)
        assert "secret" not in str(error.value)


class Slow:
    """A store that answers when it is told to."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.asked = asyncio.Event()
        self.may = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def exchange(self, holder: str, asks: Sequence[Ask]) -> Tally:
        self.asked.set()
        await self.may.wait()
        return await self._store.exchange(holder, asks)


def test_a_slow_store_is_no_reached_ceiling(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who came while an exchange was under way is not refused by its answer, however long that took."""
    monkeypatch.setattr(shared, "WAIT_S", 0.0)  # everybody has waited long enough at once

    async def work() -> None:
        store = Slow(SqliteStore(folder))
        allowances = SharedAllowances(store, folder, DeskConfig(lease_nano=400))
        await allowances.start()
        first = asyncio.create_task(allowances.reserve(BUDGET, 1, 1))
        await store.asked.wait()
        others = [asyncio.create_task(allowances.reserve(meters, 1, 1)) for meters in (LIMIT, SLOTS)]
        await asyncio.sleep(0)
        store.may.set()
        for held in await asyncio.gather(first, *others):
            held.settle(1, 1)
        with pytest.raises(Refused):
            await allowances.reserve(BUDGET, 1000, 1)
        await allowances.close()

    asyncio.run(work())
