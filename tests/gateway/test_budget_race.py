"""The whole gateway, several workers, 200 clients and one dollar: never more than that by the upstream's own books."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.allowances import quick_folder
from tests.support.ledger_upstream import Ledger, ledger_upstream
from tests.support.redis import redis_server
from tests.support.worker import RunningWorker, route, target

from llmops.gateway.allowance import UsageRow, open_store, read_usage

CLIENTS = 200
DOLLAR = 1_000_000_000
INPUT, OUTPUT = 60_000, 600_000  # nano-dollars a token
PRICE = {"input": "60", "output": "600"}


@pytest.fixture
def folder() -> Iterator[Path]:
    made = quick_folder()
    yield made
    shutil.rmtree(made)


@dataclass
class Crowd:
    """Clients that ask until they have been refused three times in a row."""

    token: str
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def ask(self, workers: list[RunningWorker], clients: int, most: int | None = None) -> None:
        """`most`: how often each client asks at most."""
        async with contextlib.AsyncExitStack() as stack:
            limits = httpx.Limits(max_connections=clients)
            doors = [
                await stack.enter_async_context(
                    httpx.AsyncClient(base_url=worker.url, timeout=120, limits=limits, trust_env=False)
                )
                for worker in workers
            ]
            await asyncio.gather(*[self._client(doors[number % len(doors)], most) for number in range(clients)])

    async def _client(self, door: httpx.AsyncClient, most: int | None) -> None:
        refused = asked = 0
        while refused < 3 and asked != most:
            asked += 1
            status = await self._once(door, f"nonce {next(self.numbers)}")
            self.statuses[status] += 1
            refused = refused + 1 if status == 429 else 0
            if refused:
                await asyncio.sleep(0.3)

    async def _once(self, door: httpx.AsyncClient, nonce: str) -> int:
        body = {
            "model": "chat", "stream": True, "max_tokens": 10, "messages": [{"role": "user", "content": nonce}]
        }  # fmt: skip
        headers = {"authorization": f"Bearer {self.token}"}
        async with door.stream("POST", "/v1/chat/completions", json=body, headers=headers) as reply:
            with contextlib.suppress(httpx.RemoteProtocolError):  # cut, as the upstream cut it
                text = (await reply.aread()).decode()
                if reply.status_code != 200:
                    self.codes[f"{reply.status_code} {text[:120]}"] += 1
        return reply.status_code


@contextlib.contextmanager
def gateways(
    folder: Path, upstream: str, machines: list[str], redis_url: str | None, **key: Any
) -> Iterator[tuple[list[RunningWorker], str]]:
    workers: list[RunningWorker] = []
    token = ""
    for number, machine in enumerate(machines):
        place = folder / f"worker{number}"
        place.mkdir()
        config = {
            "state": {"dir": str(folder / machine)},
            "providers": {"first": {"url": upstream}},
            "routes": [
                route(
                    "chat", target(price=PRICE, max_output_tokens=10), retry={"attempts": 1}, breaker={"failures": 1000}
                )
            ],
            "store": {"redis_url": redis_url, "lease_usd": "0.05"},
        }
        worker = RunningWorker(place, config)
        if not token:
            token = worker.key(publish_now=False, **key)
        else:
            worker.policies = workers[0].policies
        worker.publish_keys()
        workers.append(worker)
    try:
        for worker in workers:
            worker.start()
        yield workers, token
    finally:
        for worker in workers:
            worker.stop()


def usage_of(worker: RunningWorker) -> dict[str, UsageRow]:
    async def read() -> list[UsageRow]:
        store = open_store(worker.checked)
        try:
            return await read_usage(store)
        finally:
            await store.close()

    return {row.meter.split("/", 1)[1]: row for row in asyncio.run(read())}


def check_dollar(folder: Path, machines: list[str], redis_url: str | None) -> None:
    async def race() -> tuple[Ledger, Crowd]:
        async with ledger_upstream() as ledger:
            key = {"budgets": ((DOLLAR, "total"),)}
            with gateways(folder, ledger.url, machines, redis_url, **key) as (workers, token):
                told.extend(workers)
                crowd = Crowd(token)
                await crowd.ask(workers, CLIENTS)
            return ledger, crowd

    told: list[RunningWorker] = []
    ledger, crowd = asyncio.run(race())
    assert set(crowd.statuses) <= {200, 429}, crowd.codes
    assert ledger.cut, "no stream was cut: the test shows nothing"
    assert ledger.nano(INPUT, OUTPUT) <= DOLLAR
    rows = [row for name in set(machines) for row in _rows(told[machines.index(name)])]
    booked = usage_of(told[0])["usd/total"]
    assert (booked.spent, booked.leased) == (sum(_nano(row) for row in rows), 0)
    assert DOLLAR * 9 // 10 <= booked.spent <= DOLLAR
    _check_rows(rows, ledger)


def _check_rows(rows: list[dict[str, Any]], ledger: Ledger) -> None:
    """Booked is what the upstream charged wherever it told its usage; else it is estimated, and says so."""
    seen = Counter[str]()
    for row in rows:
        nonce = next((n for n in ledger.charged if f'"{n}"' in (row.get("request_json") or "")), None)
        if nonce is None:
            assert row["status_code"] == 429
            assert _nano(row) == 0
            continue
        seen[nonce] += 1
        tokens_in, tokens_out = ledger.charged[nonce]
        estimated = dict(row.get("tags") or {}).get("estimated") == "true"
        assert estimated == (nonce in ledger.cut), row
        if estimated:  # counted from the text that was received
            assert row["output_tokens"] > 0
        else:
            assert _nano(row) == tokens_in * INPUT + tokens_out * OUTPUT
    assert seen == Counter(ledger.charged.keys())


def _rows(worker: RunningWorker) -> list[dict[str, Any]]:
    return worker.rows()


def _nano(row: dict[str, Any]) -> int:
    return int(Decimal(row["cost_usd"]) * DOLLAR)


@pytest.mark.timeout(600)
def test_four_workers_spend_one_dollar_and_no_more(folder: Path) -> None:
    check_dollar(folder, ["state"] * 4, None)


@pytest.mark.redis
@pytest.mark.timeout(600)
def test_two_machines_spend_one_dollar_and_no_more(folder: Path) -> None:
    with redis_server() as server:
        check_dollar(folder, ["one", "two"], server.url)


CEILINGS = {"requests_per_minute": 40, "tokens_per_minute": 1_500, "concurrent": 4}


@pytest.mark.redis
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CEILINGS)
def test_two_machines_share_each_limit(folder: Path, name: str) -> None:
    """By the upstream's books: what arrived in any 60 seconds, and who was there at once; each near its ceiling."""
    ceiling = CEILINGS[name]

    async def race(url: str) -> tuple[Ledger, Crowd]:
        async with ledger_upstream(cut_share=0.0) as ledger:
            with gateways(folder, ledger.url, ["one", "two"], url, limits={name: ceiling}) as (workers, token):
                crowd = Crowd(token)
                await crowd.ask(workers, 20 if name != "concurrent" else 12, most=20)
            return ledger, crowd

    with redis_server() as server:
        ledger, crowd = asyncio.run(race(server.url))
    assert set(crowd.statuses) == {200, 429}, crowd.codes
    said = {"requests_per_minute": "requests a minute", "tokens_per_minute": "tokens a minute"}
    words = f"{ceiling} {said.get(name, 'requests at once')}"
    assert all(words in text for text in crowd.codes), crowd.codes
    if name == "concurrent":
        assert 1 < ledger.most_present <= ceiling
        return
    taken = most_in_a_minute(ledger, tokens=name == "tokens_per_minute")
    assert ceiling // 4 <= taken <= ceiling


def most_in_a_minute(ledger: Ledger, *, tokens: bool) -> int:
    """The most that arrived within any 60 seconds, whole windows only: requests, or the tokens they came to."""
    weights = {nonce: sum(ledger.charged[nonce]) if tokens else 1 for nonce in ledger.charged}
    return max(
        sum(weights[nonce] for nonce, at in ledger.arrived.items() if begin <= at < begin + 60)
        for begin in ledger.arrived.values()
    )
