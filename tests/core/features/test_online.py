"""Both online stores, and publishing to them: incremental, monotone, killed at random moments."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from tests.support.features import CUSTOMERS, day, publish_forever, row
from tests.support.redis import redis_server

from llmops.core.errors import ConfigError, StorageError, UnavailableError
from llmops.core.features import FeatureStore, OnlineStore, open_online, publish, staleness
from llmops.core.features.online import Entry, Published, key_text
from llmops.core.lake import Lake
from llmops.core.state import StateConfig

NAME = "dev.fraud.customers"


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis_server() as server:
        yield server.url


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> StateConfig:
    if request.param == "sqlite":
        return StateConfig(dir=tmp_path / "state")
    url = request.getfixturevalue("redis_url")
    import redis

    with redis.Redis.from_url(url) as client:
        client.flushall()
    return StateConfig(dir=tmp_path / "state", online_url=url)


@pytest.fixture
def store(state: StateConfig) -> FeatureStore:
    found = FeatureStore(Lake(state))
    found.create(CUSTOMERS)
    return found


@pytest.fixture
def online(state: StateConfig) -> Iterator[OnlineStore]:
    found = open_online(state)
    yield found
    found.close()


def spent(online: OnlineStore, *customers: str) -> dict[str, float]:
    entries = online.get(NAME, [key_text([customer]) for customer in customers])
    return {key: entry.values["spent"] for key, entry in entries.items()}


def test_the_newest_row_of_each_key_is_found(store: FeatureStore, online: OnlineStore) -> None:
    assert online.get(NAME, [key_text(["a"])]) == {}
    store.write(CUSTOMERS, [row("a", 0, 1.0), row("a", 2, 3.0, since="2024-02-29"), row("a", 1, 2.0), row("b", 0)])

    assert publish(store, CUSTOMERS, online) == 2

    entries = online.get(NAME, [key_text([name]) for name in ("a", "b", "c")])
    assert set(entries) == {'["a"]', '["b"]'}
    assert entries['["a"]'].event_time == day(2)
    assert entries['["a"]'].values == {
        "spent": 3.0, "visits": None, "home": None, "since": (date(2024, 2, 29) - date(1970, 1, 1)).days,
    }  # fmt: skip


def test_publishing_reads_what_is_new_only(store: FeatureStore, online: OnlineStore) -> None:
    store.write(CUSTOMERS, [row("a", 0), row("b", 0)])
    assert publish(store, CUSTOMERS, online) == 2
    assert publish(store, CUSTOMERS, online) == 0
    store.write(CUSTOMERS, [row("c", 1, 7.0)])
    assert publish(store, CUSTOMERS, online) == 1
    store.write(CUSTOMERS, [row("a", -1, 9.0)])  # late: older than what is there
    publish(store, CUSTOMERS, online)
    store.write(CUSTOMERS, [row("b", 0, 8.0)])  # a correction of the newest row
    publish(store, CUSTOMERS, online)
    store.lake.maintain(NAME)
    publish(store, CUSTOMERS, online)

    assert spent(online, "a", "b", "c") == {'["a"]': 1.0, '["b"]': 8.0, '["c"]': 7.0}


def test_what_is_not_yet_so_waits(store: FeatureStore, online: OnlineStore) -> None:
    store.write(CUSTOMERS, [row("a", 0, 1.0), row("a", 5, 5.0)])

    publish(store, CUSTOMERS, online, now=day(1))
    assert spent(online, "a") == {'["a"]': 1.0}
    publish(store, CUSTOMERS, online, now=day(5))
    assert spent(online, "a") == {'["a"]': 5.0}


def test_anew_drops_what_the_lake_has_no_more(store: FeatureStore, online: OnlineStore) -> None:
    store.write(CUSTOMERS, [row("a", 0)])
    version = store.read(CUSTOMERS)[1]
    publish(store, CUSTOMERS, online)
    old = Entry(key_text(["gone"]), 0, {"spent": 1.0})
    online.publish(NAME, [[old]], lambda: Published(version, (), 0, 0), anew=False)
    assert spent(online, "a", "gone") == {'["a"]': 1.0, '["gone"]': 1.0}

    publish(store, CUSTOMERS, online, anew=True)

    assert spent(online, "a", "gone") == {'["a"]': 1.0}


def test_staleness_tells_how_late_it_is(store: FeatureStore, online: OnlineStore) -> None:
    store.write(CUSTOMERS, [row("a", 0)])
    never = staleness(store, CUSTOMERS, online)
    publish(store, CUSTOMERS, online)
    current = staleness(store, CUSTOMERS, online, now=day(2))
    store.write(CUSTOMERS, [row("a", 1)])
    behind = staleness(store, CUSTOMERS, online, now=day(2))

    assert (never.is_current, never.age_s, never.online_version) == (False, None, None)
    assert (current.is_current, current.age_s, current.newest) == (True, 2 * 86400, day(0))
    assert not behind.is_current
    assert behind.lake_version == (behind.online_version or 0) + 1
    assert behind.as_json()["is_current"] is False


def test_a_publication_that_fails_leaves_the_old_one(store: FeatureStore, online: OnlineStore) -> None:
    store.write(CUSTOMERS, [row("a", 0)])
    publish(store, CUSTOMERS, online)
    held = online.published(NAME)

    def breaking() -> Iterator[list[Entry]]:
        yield [Entry(key_text(["a"]), 10**18, {"spent": 99.0})]
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError):
        online.publish(NAME, breaking(), lambda: Published(9, (), 0, 0), anew=True)

    assert spent(online, "a") == {'["a"]': 1.0}
    assert online.published(NAME) == held


@pytest.mark.kill
def test_kills_leave_a_store_that_a_rerun_completes(tmp_path: Path) -> None:
    root, chance = tmp_path / "state", random.Random(3)
    state, context = StateConfig(dir=root), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.features"])
    for _ in range(3):
        store, online = FeatureStore(Lake(state)), open_online(state)
        before = online.published(NAME)
        process = context.Process(target=publish_forever, args=(root, 50))
        process.start()
        deadline = time.monotonic() + 120
        while online.published(NAME) == before:
            assert time.monotonic() < deadline, "nothing was published"
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.1))  # a round takes about that long
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        values = set(spent(online, *(f"c{number}" for number in range(50))).values())
        assert len(values) <= 1, "a publication is seen whole or not at all"
        publish(store, CUSTOMERS, online)
        newest = store.read(CUSTOMERS)[0].to_table(columns=["spent"])["spent"].to_pylist()
        assert set(spent(online, *(f"c{number}" for number in range(50))).values()) == {max(newest)}
        assert len(newest) % 50 == 0, "a write is there whole or not at all"
        online.close()


def test_wrong_addresses_and_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="not an address"):
        open_online(StateConfig(dir=tmp_path, online_url="http://x"))
    with pytest.raises(ConfigError, match="holds a password") as error:
        open_online(StateConfig(dir=tmp_path, online_url="redis://:hunter2@x/0"))
    assert "hunter2" not in str(error.value)
    monkeypatch.setenv("ONLINE", "redis://:hunter2@127.0.0.1:1/0")
    gone = open_online(StateConfig(dir=tmp_path, online_url="env:ONLINE"))
    with pytest.raises(UnavailableError, match="does not answer") as silent:
        gone.get(NAME, ["x"])
    assert "hunter2" not in f"{silent.value} {silent.value.where}"
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "online.db").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match="damaged"):
        open_online(StateConfig(dir=tmp_path)).get(NAME, ["x"])
