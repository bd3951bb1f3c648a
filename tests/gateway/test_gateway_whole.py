"""The whole gateway, real workers and real control: reloads, kills and a stop under load."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.control import GUARD
from tests.support.gateway import Gateway, eventually, running, write_config
from tests.support.upstream import Reply, Upstream, running_upstream

from llmops.core.lake import Lake

TABLE = "dev.gateway.inference_log"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as started:
        started.answer = lambda _seen: Reply(stream=False, pieces=("Hello",))
        yield started


def write(file: Path, upstream: Upstream, *routes: str, **more: Any) -> None:
    targets = [{"provider": "near", "model": "small", "price": {"input": 1, "output": 1}}]
    write_config(
        file,
        providers={"near": {"url": upstream.url}},
        routes=[{"name": name, "targets": targets} for name in routes],
        workers=2,
        **more,
    )


def ask(client: httpx.Client, route: str = "steady", **more: Any) -> httpx.Response:
    body = {"model": route, "messages": [{"role": "user", "content": "Hi"}]}
    return client.post("/v1/chat/completions", json=body, **more)


class Load:
    """Clients that keep asking, each on a connection it keeps."""

    def __init__(self, gateway: Gateway, clients: int = 4) -> None:
        self.outcomes: Counter[str] = Counter()
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(gateway,)) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(120)

    def _ask(self, gateway: Gateway) -> None:
        with gateway.client() as client:
            while not self._done.is_set():
                try:
                    self.outcomes[str(ask(client).status_code)] += 1
                except httpx.HTTPError as error:
                    self.outcomes[type(error).__name__] += 1

    def more(self, count: int = 20) -> None:
        """Wait until so many more were answered."""
        enough = self.outcomes["200"] + count
        eventually(lambda: self.outcomes["200"] >= enough)


def good(line: str) -> bool:
    return line.startswith("llmops_gateway_requests_total{") and 'status="2xx"' in line


def test_reloads_and_a_killed_control_drop_no_request_and_every_one_is_counted(
    tmp_path: Path, upstream: Upstream
) -> None:
    file = tmp_path / "gateway.yaml"
    write(file, upstream, "steady")
    with running(file, "real") as gateway:
        with Load(gateway) as load, gateway.client() as client:
            load.more()
            write(file, upstream, "steady", "new")
            eventually(lambda: ask(client, "new").status_code == 200)
            for _ in range(5):
                gateway.process.send_signal(signal.SIGHUP)
                load.more(5)
            before = eventually(lambda: gateway.pid("control"))
            os.kill(before, signal.SIGKILL)
            load.more()
            eventually(lambda: gateway.pid("control") not in (0, before))
            load.more()
            write(file, upstream, "steady", "new", routes_that_are_not_a_key=1)
            eventually(lambda: not gateway.status().reload.ok)
            load.more()
        assert set(load.outcomes) == {"200"}
        with gateway.controller() as control:
            asked = len(upstream.requests)

            def counted() -> int:
                lines = control.get("/metrics").text.splitlines()
                return sum(int(line.split()[-1]) for line in lines if good(line))

            eventually(lambda: counted() >= asked)
            assert counted() == asked
            assert gateway.status().reload.error in control.get("/api/processes").json()["reload"]["error"]
        write(file, upstream, "steady")  # so that the state below is read from a good file
        assert gateway.stop() == 0
        rows = Lake(gateway.state).rows(TABLE, {"status_code": 200}, include_pending=False)
        assert len(rows) == asked


@pytest.mark.kill
def test_a_killed_worker_costs_only_what_it_was_answering(tmp_path: Path, upstream: Upstream) -> None:
    file = tmp_path / "gateway.yaml"
    write(file, upstream, "steady")
    with running(file, "real") as gateway:
        with Load(gateway) as load:
            load.more()
            for name in ("worker 0", "worker 1"):
                before = gateway.pid(name)
                os.kill(before, signal.SIGKILL)
                eventually(lambda name=name, before=before: gateway.pid(name) not in (0, before))
                load.more()
        broken = sum(count for outcome, count in load.outcomes.items() if outcome != "200")
        assert broken <= 8  # four clients, two kills: one request each at most
        with gateway.controller() as control:
            metrics = control.get("/api/processes").json()["processes"]
            assert [one["restarts"] for one in metrics[:2]] == [1, 1]


def test_a_key_s_budget_is_shown_and_a_revoked_key_is_refused(tmp_path: Path, upstream: Upstream) -> None:
    file = tmp_path / "gateway.yaml"
    write(file, upstream, "steady", require_keys=True)
    with running(file, "real") as gateway, gateway.client() as client, gateway.controller(headers=GUARD) as control:
        made = control.post("/api/keys", json={"name": "app", "budgets": ["1/day"]}).json()
        bearer = {"authorization": f"Bearer {made['token']}"}
        eventually(lambda: ask(client, headers=bearer).status_code == 200)

        def spent() -> float:
            return float(control.get("/api/budgets").json()["budgets"][0]["spent_usd"])

        eventually(lambda: spent() > 0)
        assert control.delete(f"/api/keys/{made['key_id']}").json()["state"] == "revoked"
        eventually(lambda: ask(client, headers=bearer).status_code == 401)
