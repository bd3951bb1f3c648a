"""Redis goes away under a worker: budgets refuse in plain words, all else goes on, and it mends by itself."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
from tests.support.faulty import scripted_upstream, whole
from tests.support.redis import redis_server
from tests.support.worker import RunningWorker, route, running_worker, user_says

from llmops.gateway.allowance import UsageRow, open_store, read_usage


def spent(worker: RunningWorker) -> dict[str, UsageRow]:
    async def read() -> list[UsageRow]:
        store = open_store(worker.checked)
        try:
            return await read_usage(store)
        finally:
            await store.close()

    return {row.meter: row for row in asyncio.run(read())}


@pytest.mark.redis
def test_budgets_fail_closed_while_redis_is_gone_and_come_back_by_themselves(tmp_path: Path) -> None:
    with redis_server(persistent=True) as redis, scripted_upstream() as upstream:
        upstream.answer = whole(tokens=1000)  # which soon spends what is leased
        config = {
            "providers": {"first": {"url": upstream.url}},
            "routes": [route()],
            "store": {"redis_url": redis.url, "lease_usd": "0.01"},
        }
        with running_worker(tmp_path, **config) as worker:
            token = worker.key(budgets=((10**9, "total"),))
            limited = worker.key(limits={"requests_per_minute": 1000, "concurrent": 100})
            body = user_says(max_tokens=1000)  # may cost 0.002 dollars: a few of them fit in what is leased
            assert worker.chat(body, token=token).status_code == 200
            redis.kill()
            refused = worker.until(lambda: _refused(worker, token))
            assert refused["code"] == "allowance_store_gone"
            assert "the budget of $1.00 in all of key" in refused["message"]
            assert "try again" in refused["message"]
            asked = len(upstream.asked)
            assert worker.chat(user_says(max_tokens=4000), token=token).status_code == 503
            assert len(upstream.asked) == asked, "nobody is asked for what nobody has covered"
            assert worker.chat().status_code == 200
            worker.until(lambda: worker.chat(token=limited).status_code == 200)
            worker.until(lambda: worker.metrics()["gauges"] and _gone(worker) == 1)
            redis.start()
            worker.until(lambda: worker.chat(user_says(max_tokens=4000), token=token).status_code == 200)
            worker.until(lambda: _gone(worker) == 0)
            worker.stop()
            key = f"key:{token.split('_')[1]}"
            costs = sum(Decimal(row["cost_usd"]) for row in worker.rows() if row["requester"] == key)
            booked = spent(worker)[f"{key}/usd/total"]
            assert (Decimal(booked.spent) / 10**9, booked.leased) == (costs, 0)


def _refused(worker: RunningWorker, token: str) -> dict[str, str] | None:
    reply = worker.chat(user_says(max_tokens=4000), token=token)
    if reply.status_code == 200:  # from what is leased still
        return None
    assert reply.status_code == 503, reply.text
    error: dict[str, str] = reply.json()["error"]
    return error


def _gone(worker: RunningWorker) -> float:
    return sum(value for name, _, value in worker.metrics()["gauges"] if name == "llmops_gateway_allowance_store_gone")
