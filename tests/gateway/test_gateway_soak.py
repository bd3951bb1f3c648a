"""Hours in minutes: thousands of requests against an upstream that fails at random and clients who leave at random.

Behind LLMOPS_SOAK=1, since it takes minutes. LLMOPS_SOAK_REQUESTS sets its length (default 20,000).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support import faulty
from tests.support.faulty import Scripted, Step, Wire, scripted_upstream
from tests.support.worker import RunningWorker, route, running_worker, target

pytestmark = [
    pytest.mark.skipif(os.environ.get("LLMOPS_SOAK") != "1", reason="minutes long: LLMOPS_SOAK=1 runs it"),
    pytest.mark.timeout(7200),
]
REQUESTS = int(os.environ.get("LLMOPS_SOAK_REQUESTS", "20000"))
CLIENTS = 24
GROWTH_MB = 6.0
MAIL = "Write to alice@example.org or to nobody at all, dear reader. "


def some_step(seed: int) -> Step:
    """Mostly good answers; else one of everything that goes wrong on a wire."""
    draw = random.Random(seed)
    pieces = tuple(MAIL[start : start + 7] for start in range(0, len(MAIL), 7))
    faults: list[Step] = [
        faulty.status(500), faulty.status(429, ("Retry-After", "0")), faulty.status(503), faulty.status(400),
        faulty.text(b"{not json"), faulty.text(b"[]"), faulty.wrong_length(), faulty.not_http(),
        faulty.hang_up(), faulty.stream(pieces, cut_after=3), faulty.stream(pieces, error_after=2),
        faulty.stream(("x" * 5000,) * 20),
    ]  # fmt: skip

    def step(wire: Wire) -> None:
        if draw.random() < 0.7:
            faulty.stream(pieces)(wire) if wire.asked.body.get("stream") else faulty.whole(MAIL * 50)(wire)
        else:
            draw.choice(faults)(wire)

    return step


def rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


class Clients:
    """Ask, and sometimes leave in the middle; every answer must be one that a caller can read."""

    def __init__(self, url: str, token: str, seed: int) -> None:
        self.statuses: Counter[str] = Counter()
        self._url, self._token = url, token
        self._draw = random.Random(seed)
        self._left = 0

    async def ask(self, requests: int) -> None:
        self._left = requests
        limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
        headers = {"authorization": f"Bearer {self._token}"}
        async with httpx.AsyncClient(
            base_url=self._url, headers=headers, timeout=120, limits=limits, trust_env=False
        ) as client:
            await asyncio.gather(*(self._keep_asking(client) for _ in range(CLIENTS)))

    async def _keep_asking(self, client: httpx.AsyncClient) -> None:
        while self._left > 0:
            self._left -= 1
            body: dict[str, Any] = {
                "model": self._draw.choice(["plain", "guarded", "cached"]),
                "messages": [{"role": "user", "content": f"{MAIL} {self._draw.randrange(200)}"}],
                "stream": self._draw.random() < 0.5,
                "max_tokens": 100,
            }
            await self._one(client, body, leaves=self._draw.random() < 0.1)

    async def _one(self, client: httpx.AsyncClient, body: dict[str, Any], leaves: bool) -> None:
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            got = b""
            try:
                async for data in reply.aiter_bytes():
                    got += data
                    if leaves:
                        self.statuses["left"] += 1
                        return
            except httpx.RemoteProtocolError:
                assert body["stream"], "only a stream may be cut"
                self.statuses["cut"] += 1
                return
            self.statuses[str(reply.status_code)] += 1
            assert reply.status_code in (200, 400, 429, 500, 502, 503, 504), got
            if body["model"] == "guarded":
                assert b"alice@" not in got
            if reply.status_code == 200 and body["stream"]:
                assert b"data: [DONE]" in got or b'"error"' in got, got[-500:]


def config(upstream: Scripted) -> dict[str, Any]:
    quick = {"first_byte_s": 20, "idle_s": 20, "total_s": 60}
    more: dict[str, Any] = {"timeouts": quick, "retry": {"attempts": 2, "backoff_s": 0.01}}
    more["breaker"] = {"failures": 1000, "open_s": 0.05}
    guards = [{"check": "pii", "on": "both", "action": "mask"}, {"check": "secrets", "on": "both"}]
    return {
        "require_keys": True,
        "providers": {"first": {"url": upstream.url}},
        "teams": {"team": {"budgets": [{"usd": "1000000", "period": "month"}], "limits": {"concurrent": 1000}}},
        "routes": [
            route("plain", target(), **more),
            route("guarded", target(), guards=guards, **more),
            route("cached", target(), cache={"max_bytes": 2_000_000, "ttl_s": 5}, **more),
        ],
    }


def settled(worker: RunningWorker, requests: int) -> None:
    """Every request is counted, none is under way, and no connection to the upstream is in use for nothing."""
    worker.until(lambda: worker.counter("llmops_gateway_requests_total") >= requests)
    gauges = {name: value for name, _, value in worker.metrics()["gauges"]}
    worker.until(
        lambda: {name: value for name, _, value in worker.metrics()["gauges"]}["llmops_gateway_under_way"] == 0
    )
    assert gauges["llmops_gateway_spool_failed"] == 0


def test_no_growth_under_faults(tmp_path: Path) -> None:
    with scripted_upstream() as upstream:
        upstream.answer = some_step(1)
        with running_worker(tmp_path, **config(upstream)) as worker:
            token = worker.key(team="team", budgets=((10**15, "month"),), limits={"concurrent": 1000})
            asked, sizes = 0, []
            part = max(100, REQUESTS // 6)
            statuses: Counter[str] = Counter()
            for number in range(6):
                clients = Clients(worker.url, token, number)
                asyncio.run(clients.ask(part))
                statuses += clients.statuses
                asked += sum(clients.statuses.values())
                settled(worker, asked)
                upstream.asked.clear()
                sizes.append(rss_mb(worker.pid))
            print(statuses, [round(size, 1) for size in sizes])
            assert statuses["200"] > asked / 2
            assert statuses["left"] > 0
            assert worker.counter("llmops_gateway_requests_total") == asked
            assert max(sizes[-2:]) - max(sizes[1:3]) < GROWTH_MB, sizes
            assert "Traceback" not in worker.log
