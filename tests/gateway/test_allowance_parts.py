"""The pieces: the calendar, the words of a refusal, the journal, and what is granted."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmops.core.errors import render
from llmops.gateway.allowance import StoreGone, open_store, read_usage
from llmops.gateway.allowance import journal as journal_module
from llmops.gateway.allowance.desk import DeskConfig
from llmops.gateway.allowance.exchange import LARGEST, Account, Ask, LeaseRow, grant_of, until_of
from llmops.gateway.allowance.journal import Journal, dead_journals
from llmops.gateway.allowance.lease import Holding, Lease
from llmops.gateway.allowance.periods import account_of, bounds
from llmops.gateway.allowance.reclaim import machine_of, reclaim
from llmops.gateway.allowance.refusal import refusal
from llmops.gateway.allowance.shared import SharedAllowances
from llmops.gateway.allowance.sqlite_store import SqliteStore
from llmops.gateway.calls import Meter, Refused
from llmops.gateway.config import GatewayConfig
from llmops.gateway.pricing import PriceTable

DOLLAR = 1_000_000_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("period", "now", "start", "end"),
    [
        ("hour", "2026-11-24T00:59:59.999", "2026-11-24T00:00", "2026-11-24T01:00"),
        ("day", "2028-02-29T23:59:59.999", "2028-02-29T00:00", "2028-03-01T00:00"),
        ("week", "2026-11-22T23:59:59", "2026-11-16T00:00", "2026-11-23T00:00"),
        ("week", "2026-11-23T00:00:00", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("month", "2026-12-31T23:59:59.999", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("month", "2028-02-01T00:00:00", "2028-02-01T00:00", "2028-03-01T00:00"),
    ],
)
def test_periods_of_the_calendar(period: str, now: str, start: str, end: str) -> None:
    assert bounds(period, ms(now)) == (ms(start), ms(end))


@given(st.integers(0, 4_000_000_000_000), st.sampled_from(["hour", "day", "week", "month"]))
def test_periods_meet_without_gap(now: int, period: str) -> None:
    start, end = bounds(period, now)
    assert start <= now < end
    assert bounds(period, end)[0] == end
    assert bounds(period, end - 1) == (start, end)


@given(st.integers(0, 10**12), st.integers(0, 100), st.integers(1, 100))
def test_rate_grants_count_a_minute_beyond_their_last_use(now: int, counted: int, ceiling: int) -> None:
    until = until_of(now, counted, ceiling)
    assert until % 500 == 0
    assert 1_000 <= until - now < 5_500


@given(
    st.integers(-50, 1000),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 500),
    st.integers(1, 9),
    st.booleans(),
)
def test_no_grant_passes_what_is_there(available, least, more, want, holders, recalled) -> None:
    need = least + more if least else 0
    ask = Ask(Account("a", "usd", 1000), least=least, need=need, want=want)
    given_ = grant_of(ask, available, holders, recalled=recalled)
    assert 0 <= given_ <= max(available, 0)
    assert given_ >= need or given_ == 0 or given_ >= least
    if need and available >= least:
        assert given_ >= least
    if recalled:
        assert given_ <= need


def test_a_refusal_names_ceiling_owner_and_time() -> None:
    now = ms("2026-11-24T12:30:00")
    month = Meter("team:research", "usd", 30 * DOLLAR, "month")
    told = refusal(month, None, now)
    assert told.message == (
        "the budget of $30.00 a month of team `research` is reached; the next month begins at 2026-12-01T00:00:00Z"
    )
    assert told.retry_after_s is None
    user = Meter("user:research:bob@example.org", "tokens", 1000)
    told = refusal(user, 12.3, now)
    assert told.message == (
        "the limit of 1000 tokens a minute of user `bob@example.org` of team `research` is reached; try again in 13 s"
    )
    assert told.retry_after_s == 12.3
    assert "2 requests at once of key `k`" in refusal(Meter("key:k", "concurrent", 2), 1, now).message
    total = Meter("route:r", "usd", 500_000, "total")
    assert "$0.0005 in all of route `r`" in refusal(total, None, now).message
    assert "is less than this request may need" in refusal(total, None, now, never=True).message


def row_of(lease: Lease, **changes: int) -> LeaseRow:
    values = {"seq": lease.seq, "amount": lease.amount, "granted": 0, "debt": lease.debt_told, **changes}
    return LeaseRow("a", "usd", lease.serial, lease.number, **values)


def left_behind(folder: Path, row: LeaseRow) -> tuple[int, int]:
    (dead,) = dead_journals(folder)
    left = dead.left_of(row)
    dead.close(remove=False)
    return left


def test_a_journal_tells_what_was_free_at_every_step_of_an_exchange(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "machine-1")
    assert dead_journals(tmp_path) == []  # it lives
    holding = Holding(Meter("key:k", "usd", 1000, "total"))
    lease = Lease(holding, account_of(holding.meter, 0), journal, 1)
    lease.begin(returned=0, close=False)
    lease.finish(100)
    lease.begin(returned=30, close=False)
    journal.close(remove=False)
    assert left_behind(tmp_path, row_of(lease)) == (100, 0)  # the exchange did not arrive
    assert left_behind(tmp_path, row_of(lease, seq=2, granted=50)) == (120, 0)  # it did, the answer did not
    lease.finish(50)
    assert left_behind(tmp_path, row_of(lease, granted=50)) == (120, 0)
    lease.free -= 20
    lease.overdraw(130)
    assert left_behind(tmp_path, row_of(lease)) == (0, 30)
    assert left_behind(tmp_path, row_of(lease, seq=7)) == (0, 30)  # cannot be: counts as used
    assert left_behind(tmp_path, LeaseRow("a", "usd", 9, lease.number, 1, 1, 1, 0)) == (0, 0)  # another lease
    assert left_behind(tmp_path, LeaseRow("a", "usd", 1, 10**6, 1, 1, 1, 0)) == (0, 0)  # no such slot


def test_after_a_power_cut_a_whole_lease_counts_as_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, "machine-1")
    holding = Holding(Meter("key:k", "usd", 1000, "total"))
    lease = Lease(holding, account_of(holding.meter, 0), journal, 1)
    lease.begin(returned=0, close=False)
    lease.finish(100)
    journal.close(remove=False)
    assert left_behind(tmp_path, row_of(lease)) == (100, 0)
    monkeypatch.setattr(journal_module, "boot_id", lambda: "another boot")
    assert left_behind(tmp_path, row_of(lease)) == (0, 0)


@given(st.binary(max_size=6000))
def test_any_file_can_be_read_as_a_journal(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("leases")
    (folder / "x-1.leases").write_bytes(data)
    assert left_behind(folder, LeaseRow("a", "usd", 1, 0, 1, 5, 5, 0)) == (0, 0)


def test_a_journal_grows_and_reuses_its_slots(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "machine-1")
    numbers = {journal.allot()[0] for _ in range(1300)}
    assert numbers == set(range(1300)) | numbers
    assert len(numbers) == 1300
    journal.release(7)
    assert journal.allot()[0] == 7
    journal.close(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_keeps_its_name(tmp_path: Path) -> None:
    name = machine_of(tmp_path / "state")
    assert machine_of(tmp_path / "state") == name != machine_of(tmp_path / "other")
    assert "-" not in name


async def opened(folder: Path) -> SharedAllowances:
    allowances = SharedAllowances(SqliteStore(folder), folder, DeskConfig())
    await allowances.start()
    return allowances


def test_more_than_was_reserved_is_booked_whole_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    meters = (Meter("key:k", "usd", 1000, "total"), Meter("key:k", "tokens", 1000))

    async def run() -> None:
        allowances = await opened(tmp_path)
        (await allowances.reserve(meters, 100, 100)).settle(5000, 800)
        deadline = time.monotonic() + 60
        while not caplog.records:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        with pytest.raises(Refused, match="never begins anew"):
            await allowances.reserve(meters, 1, 1)
        with pytest.raises(Refused, match="tokens a minute"):
            await allowances.reserve(meters[1:], 0, 300)
        assert allowances.desk.overdrawn == 1
        await allowances.close()

    with caplog.at_level(logging.WARNING, "llmops.gateway.allowance"):
        asyncio.run(run())
    assert "1 calls used more than was reserved for them" in caplog.text
    assert {row.meter: row.spent for row in SqliteStore(tmp_path).usage_now()}[meters[0].id] == 5000


def test_a_reservation_is_settled_once(tmp_path: Path) -> None:
    async def run() -> None:
        allowances = await opened(tmp_path)
        held = await allowances.reserve((Meter("key:k", "concurrent", 1),), 0, 0)
        held.release()
        with pytest.raises(RuntimeError, match="settled once"):
            held.settle(0, 0)
        await allowances.close()

    asyncio.run(run())


def test_one_request_beyond_a_ceiling_is_told_so_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        allowances = await opened(tmp_path)
        with pytest.raises(Refused, match="less than this request may need") as refused:
            await allowances.reserve((Meter("key:k", "usd", 10, "day"),), 11, 0)
        assert refused.value.retry_after_s is None
        await allowances.close()

    asyncio.run(run())


def test_a_caller_who_leaves_while_waiting_holds_nothing(tmp_path: Path) -> None:
    meters = (Meter("key:k", "concurrent", 1),)

    async def run() -> None:
        allowances = await opened(tmp_path)
        held = await allowances.reserve(meters, 0, 0)
        waiting = [asyncio.create_task(allowances.reserve(meters, 0, 0)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        held.release()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)
        (await allowances.reserve(meters, 0, 0)).release()
        await allowances.close()

    asyncio.run(run())


def test_a_changed_ceiling_holds_at_once(tmp_path: Path) -> None:
    old, new = Meter("key:k", "usd", 1000, "total"), Meter("key:k", "usd", 200, "total")

    async def run() -> None:
        allowances = await opened(tmp_path)
        (await allowances.reserve((old,), 150, 0)).settle(150, 0)
        async with asyncio.timeout(60):
            with pytest.raises(Refused):
                while True:  # what was leased under the old ceiling goes back with the next exchange
                    held = await allowances.reserve((new,), 100, 0)
                    held.release()
                    await asyncio.sleep(0.05)
        (await allowances.reserve((new,), 50, 0)).settle(50, 0)
        await allowances.close()

    asyncio.run(run())


def test_reclaiming_is_one_processs_work_and_may_be_repeated(tmp_path: Path) -> None:
    async def run() -> None:
        allowances = await opened(tmp_path)
        held = await allowances.reserve((Meter("key:k", "usd", 1000, "total"),), 100, 0)
        store = SqliteStore(tmp_path)
        assert await reclaim(store, tmp_path) == 0  # it lives
        await allowances.close()  # with a request under way: its journal stays
        assert len(os.listdir(tmp_path / "leases")) == 1
        assert await reclaim(store, tmp_path) == 1
        assert await reclaim(store, tmp_path) == 0
        assert [(row.spent, row.leased) for row in await store.usage()] == [(100, 0)]
        held.settle(1, 1)
        await store.close()

    asyncio.run(run())


def test_a_clock_that_steps_back_frees_nothing(tmp_path: Path) -> None:
    clock = [LARGEST // 4]
    store = SqliteStore(tmp_path, clock_ms=lambda: clock[0])
    account = Account("key:k/requests/minute", "rate", 5)
    first = store.exchange_now("h-1", [Ask(account, least=5, need=5)])
    assert first.answers[0].grant == 5
    clock[0] -= 10_000_000
    second = store.exchange_now("h-2", [Ask(account, least=1, need=1)])
    assert second.now == first.now
    assert second.answers[0].grant == 0
    store.close_now()


def test_the_page_shows_a_configuration_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "gateway-allowances.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret@localhost:1/0")
    monkeypatch.chdir(tmp_path)
    config = GatewayConfig.model_validate(yaml.safe_load(block))
    store = open_store(config)
    assert "s3cret" not in repr(vars(store))
    target = config.routes[0].targets[0]
    prices = PriceTable.load(config.prices)
    assert prices.price("openai", target.model).rates.output == 5 * DOLLAR
    assert prices.price("openai", "our-own-model").rates.cached_input == DOLLAR // 40

    async def ask() -> None:
        with pytest.raises(StoreGone) as gone:
            await read_usage(store)
        assert "s3cret" not in render(gone.value)
        await store.close()

    asyncio.run(ask())
