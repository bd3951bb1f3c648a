"""Caches outside of the worker: between processes, over damage, past their bounds, and while Redis is gone."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.redis import RedisServer, redis_server

from llmops.gateway.cache import Memory, RouteCache, Stored, open_cache
from llmops.gateway.cache.shared import RedisShared, Shared, SqliteShared, read_back, written
from llmops.gateway.calls import Usage
from llmops.gateway.config import CacheConfig, StoreConfig

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def stored(text: str = "answer", age_s: float = 0.0) -> Stored:
    return Stored(text.encode(), Usage(3, 4, cached_tokens=1, estimated=True), "model", time.time() - age_s)


@given(st.binary(), st.none() | st.text(), st.floats(0, 2e9), st.integers(0, 2**40))
def test_entries_come_back_as_they_were(body: bytes, model: str | None, at: float, tokens: int) -> None:
    entry = Stored(body, Usage(tokens, searches=1), model, at)
    assert read_back(written(entry)) == entry


@given(
    st.binary()
    | st.sampled_from([b"{}\nx", b'{"at":1,"model":null,"usage":[1]}\n', b'{"at":"x","model":1,"usage":[]}'])
)
def test_what_we_did_not_write_is_no_answer(entry: bytes) -> None:
    assert read_back(entry) is None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway" / "cache.db"


def sqlite(path: Path, max_bytes: int = 10_000_000, ttl_s: float = 60.0) -> SqliteShared:
    return SqliteShared(path, max_bytes, ttl_s)


async def both(one: Shared, other: Shared) -> None:
    entry = stored()
    assert await one.get(b"k") is None
    await one.put(b"k", entry)
    assert await other.get(b"k") == entry
    await other.put(b"k", stored("newer"))
    found = await one.get(b"k")
    assert found is not None
    assert found.body == b"newer"
    await one.clear()
    assert await other.get(b"k") is None
    await one.close()
    await other.close()


def test_two_workers_share_a_file(path: Path) -> None:
    asyncio.run(both(sqlite(path), sqlite(path)))
    assert path.stat().st_mode & 0o077 == 0, "answers are people's words"


def test_another_process_shares_it(path: Path) -> None:
    program = (
        "import asyncio, sys, time; from pathlib import Path\n"
        "from llmops.gateway.cache.shared import SqliteShared\n"
        "from llmops.gateway.cache import Stored; from llmops.gateway.calls import Usage\n"
        "async def main():\n"
        "    shared = SqliteShared(Path(sys.argv[1]), 10**6, 60.0)\n"
        "    for n in range(50): await shared.put(b'%d' % n, Stored(b'from afar', Usage(), None, time.time()))\n"
        "    await shared.close()\n"
        "asyncio.run(main())"
    )

    def begun() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", program, str(path)])

    async def main() -> None:
        shared = sqlite(path)
        await shared.put(b"first", stored())  # the file is there: who makes it at once with others may give up
        others = [begun() for _ in range(2)]
        for number in range(50):
            await shared.put(b"mine%d" % number, stored())
        for other in others:
            assert await asyncio.to_thread(other.wait, 120) == 0
        for number in range(50):
            found = await shared.get(b"%d" % number)
            assert found is not None
            assert found.body == b"from afar"
        assert shared.failures == 0
        await shared.close()

    asyncio.run(main())


def test_age_and_bounds_of_the_file(path: Path) -> None:
    async def main() -> None:
        shared = sqlite(path, max_bytes=200_000)
        await shared.put(b"old", stored(age_s=61))
        assert await shared.get(b"old") is None
        await shared.put(b"large", stored("x" * 30_000))
        assert await shared.get(b"large") is None
        for number in range(1000):
            await shared.put(b"%d" % number, stored("x" * 1000, age_s=(1000 - number) / 100))
        assert await shared.get(b"999") is not None
        assert await shared.get(b"0") is None
        await shared.close()

    asyncio.run(main())
    with sqlite3.connect(path) as connection:
        size, count = connection.execute("SELECT sum(size), count(*) FROM answers").fetchone()
    connection.close()
    assert 100_000 < size <= 200_000
    assert count > 80


def test_a_damaged_file_is_begun_anew(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database, whatever its name says" * 100)

    async def main() -> None:
        shared = sqlite(path)
        await shared.put(b"k", stored())
        assert await shared.get(b"k") is not None
        await shared.close()

    asyncio.run(main())


def test_a_place_that_cannot_be_written_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    async def main() -> None:
        shared = sqlite(tmp_path / "file" / "cache.db")
        await shared.put(b"k", stored())
        assert await shared.get(b"k") is None
        assert shared.failures == 1, "it rests after the first failure"
        await shared.close()

    asyncio.run(main())


def test_a_cache_that_rests_is_closed_all_the_same(path: Path) -> None:
    async def main() -> None:
        shared = sqlite(path)
        await shared.put(b"k", stored())
        shared._rest_until = float("inf")
        await shared.close()
        assert shared._connection is None

    asyncio.run(main())


def test_the_route_asks_the_file_and_remembers(tmp_path: Path) -> None:
    def embed(route: str) -> None:
        raise AssertionError("no semantic cache here")

    def opened() -> RouteCache:
        return open_cache(CacheConfig(shared=True), ("chat", "1"), StoreConfig(), tmp_path, embed)

    async def main() -> None:
        one, other = opened(), opened()
        asked = one.lookup("chat", BODY, None)
        assert asked is not None
        assert one.asks_elsewhere
        assert await one.fetch(asked) is None
        one.keep(asked, stored())
        await one.close()
        assert other.get(asked) is None
        found = await other.fetch(asked)
        assert found is not None
        assert found.body == b"answer"
        assert other.get(asked) == found, "from memory the next time"
        await other.close()

    asyncio.run(main())


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.mark.redis
def test_two_machines_share_a_redis(server: RedisServer) -> None:
    asyncio.run(both(RedisShared(server.url, "a:", 60), RedisShared(server.url, "a:", 60)))


@pytest.mark.redis
def test_prefixes_are_apart_and_entries_end(server: RedisServer) -> None:
    async def main() -> None:
        one, other = RedisShared(server.url, "a:", 60), RedisShared(server.url, "b:", 60)
        await one.put(b"k", stored())
        await one.put(b"old", stored(age_s=61))
        assert await other.get(b"k") is None
        assert await one.get(b"old") is None
        left = await one._redis.pttl(b"a:cache:k")
        assert 0 < left <= 60_000
        await other.clear()
        assert await one.get(b"k") is not None
        await one.close()
        await other.close()

    asyncio.run(main())


@pytest.mark.redis
def test_redis_gone_is_a_miss_and_it_comes_back(server: RedisServer) -> None:
    async def main() -> None:
        shared = RedisShared(server.url, "a:", 60)
        route = RouteCache(CacheConfig(shared=True), "chat", "1", Memory(10_000, 60), shared)
        asked = route.lookup("chat", BODY, None)
        assert asked is not None
        server.kill()
        assert await route.fetch(asked) is None
        route.keep(asked, stored())
        assert route.get(asked) is not None, "memory goes on"
        assert shared.failures >= 1
        server.start()
        deadline = time.monotonic() + 60
        while await shared.get(asked.key) is None:
            assert time.monotonic() < deadline
            await shared.put(asked.key, stored())
            await asyncio.sleep(0.05)
        await route.close()

    asyncio.run(main())
