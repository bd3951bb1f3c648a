"""Documented configurations that need processes of their own: a shared store, TLS, workers, a registry, a collector."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from tests.gateway.test_docs_configs import BLOCKS, FIRST, completed
from tests.support.control import dump, receiving, running_control, write_metrics
from tests.support.docs_scene import QUESTIONS, World, secrets, staged
from tests.support.faulty import scripted_upstream
from tests.support.gateway import eventually, running
from tests.support.redis import redis_server
from tests.support.wire import certificate
from tests.support.worker import RunningWorker

from llmops.core.state import StateConfig
from llmops.core.webhook import SIGNATURE, TIMESTAMP
from llmops.gateway.allowance import open_store, read_usage
from llmops.gateway.config import GatewayConfig
from llmops.gateway.registered import register_routes, with_registered
from llmops.registry import Registry


def showing(*words: str) -> Any:
    found = [block for block in BLOCKS if all(word in str(block.values[0]) for word in words)]
    assert found, words
    return pytest.mark.parametrize("block", found)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "world").mkdir()
    with ExitStack() as stack:
        yield World(tmp_path / "world", stack)


@contextmanager
def machine(folder: Path, shown: dict[str, Any], **environment: str) -> Iterator[RunningWorker]:
    folder.mkdir(exist_ok=True)
    worker = RunningWorker(folder, shown)
    worker.config = {**shown, "state": {"dir": str(folder / "state")}}
    worker.start(**{**secrets(), **environment})
    try:
        yield worker
    finally:
        worker.stop()


@pytest.mark.redis
@showing("redis_url:")
def test_machines_share_what_the_store_keeps(
    block: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server() as redis:
        shown, _ = staged(block, world, tmp_path)
        shown["store"] = completed(block, tmp_path / "again.yaml")["store"]
        monkeypatch.setenv("REDIS_URL", redis.url)
        with (
            machine(tmp_path / "one", shown, REDIS_URL=redis.url) as one,
            machine(tmp_path / "two", shown, REDIS_URL=redis.url) as two,
        ):
            route, team = one.checked.routes[0], next(iter(one.checked.teams), None)
            tokens = [worker.key(team=team, budgets=((10**9, "total"),)) for worker in (one,)] * 2
            two.policies = one.policies
            two.publish_keys()
            asked = {"model": route.name, **QUESTIONS["/v1/chat/completions"]}
            replies = [one.chat(asked, token=tokens[0])]
            two.until(lambda: two.chat({"model": "none"}, token=tokens[1]).status_code != 401)
            replies.append(two.chat(asked, token=tokens[1]))
            assert [reply.status_code for reply in replies] == [200, 200], [reply.text for reply in replies]
            if route.cache is not None:
                assert [reply.headers["x-llmops-cache"] for reply in replies] == ["miss", "hit"]
            cost = sum(Decimal(reply.headers["x-llmops-cost-usd"]) for reply in replies)
            meter = f"key:{tokens[0].split('_')[1]}/usd/total"
            eventually(lambda: spent(two, meter) == cost)


def spent(worker: RunningWorker, meter: str) -> Decimal:
    async def read() -> Decimal:
        store = open_store(worker.checked)
        try:
            return Decimal(sum(row.spent for row in await read_usage(store) if row.meter == meter)) / 10**9
        finally:
            await store.close()

    return asyncio.run(read())


@showing("tls_cert:")
def test_both_sides_prove_who_they_are(block: str, tmp_path: Path) -> None:
    shown = completed(block, tmp_path / "page.yaml")
    (name,) = shown["providers"]
    provider = dict(shown["providers"][name])
    (tmp_path / "tls").mkdir()
    theirs, ours, door = (certificate(tmp_path, one) for one in (provider["tls"]["server_name"], "client", "localhost"))
    placed = {"door.pem": door[:1], "door.key": door[1:], "authority.pem": theirs[:1], "client.pem": ours}
    for file, parts in placed.items():
        (tmp_path / "tls" / file).write_bytes(b"".join(part.read_bytes() for part in parts))
    asks = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours[0]))
    asks.verify_mode = ssl.CERT_REQUIRED
    asks.load_cert_chain(*theirs)
    with scripted_upstream(asks) as upstream:
        tls = {key: f"{tmp_path}/{value}" if "/" in value else value for key, value in provider["tls"].items()}
        shown["providers"] = {name: {**provider, "url": upstream.url, "tls": tls}}
        shown["http"] = {key: f"{tmp_path}/{value}" for key, value in shown["http"].items()}
        with machine(tmp_path / "one", {**shown, "port": 0}) as worker:
            trusted = ssl.create_default_context(cafile=str(door[0]))
            body = {"model": shown["routes"][0]["name"], **QUESTIONS["/v1/chat/completions"]}
            url = worker.url.replace("http://", "https://")
            reply = httpx.post(f"{url}/v1/chat/completions", json=body, verify=trusted, timeout=60, trust_env=False)
            assert reply.status_code == 200, reply.text
            assert len(upstream.asked) == 1
            with pytest.raises(httpx.ConnectError):
                httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False)


@showing("otlp_endpoint:")
def test_a_collector_and_a_webhook_are_told(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in secrets().items():
        monkeypatch.setenv(name, value)
    shown = completed(block, tmp_path / "page.yaml")
    with receiving() as collector, receiving() as hook:
        told = {**shown["control"], "port": 0, "otlp_endpoint": collector.url, "alert_webhook": hook.url}
        more = {**shown, "control": {**told, "alert_private": True}}
        with running_control(tmp_path, **more) as control:
            metrics = write_metrics(control.office.folder, 0)
            target = control.config.routes[0].targets[0]
            labels = {"route": control.config.routes[0].name, "target": f"{target.provider}/{target.model}"}
            gauge = ("llmops_gateway_breaker_open", labels, 1)
            dump(metrics, control.office.folder, os.getpid(), [gauge], fresh_s=3600)
            control.look()
            assert control.office.watch.duties.problems == {}
            with control.client() as client:
                assert "llmops_gateway_requests_total" in client.get("/metrics").text
    path, headers, body = collector.got[0]
    assert path == "/v1/metrics"
    sent = ExportMetricsServiceRequest.FromString(
        gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
    )
    names = {metric.name for one in sent.resource_metrics for scope in one.scope_metrics for metric in scope.metrics}
    assert names == {
        "gen_ai.client.token.usage", "gen_ai.client.operation.duration", "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
    }  # fmt: skip
    kinds = {json.loads(got)["alert"]["kind"] for _, _, got in hook.got}  # the watch's own first look may be at it too
    assert kinds == {"breaker_open"}
    assert {SIGNATURE, TIMESTAMP} <= hook.got[0][1].keys()


@showing("workers:")
def test_so_many_workers_answer(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in secrets().items():
        monkeypatch.setenv(name, value)
    shown = completed(block, tmp_path / "page.yaml")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "openai").write_text("a-secret")
    here = {"state": {"dir": str(tmp_path / "state")}, "host": "127.0.0.1", "port": 0, "control": {"port": 0}}
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump({**shown, **here}).replace("file:secrets", f"file:{tmp_path}/secrets"))
    with running(file, "real") as gateway:
        workers = [one for one in gateway.status().processes if one.name.startswith("worker")]
        assert len({one.pid for one in workers} - {0}) == shown["workers"]
        with gateway.client() as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/v1/models").status_code == (401 if shown.get("require_keys") else 200)


@showing("registered:")
def test_a_route_is_served_out_of_the_registry(block: str, world: World, tmp_path: Path) -> None:
    state = {"dir": str(tmp_path / "one" / "state")}
    first = GatewayConfig.model_validate({**FIRST, "state": state})
    with Registry(StateConfig(**state)) as registry:
        register_routes(first, [route for route in first.routes if route.name == "fast"], registry)
    shown, servers = staged(block, world, tmp_path)
    claude = {"anthropic": dict(FIRST["providers"]["anthropic"])}
    servers["anthropic"] = world.server("anthropic", claude["anthropic"])
    shown["providers"]["anthropic"] = world.moved(claude["anthropic"], servers["anthropic"])
    config = with_registered(GatewayConfig.model_validate({**shown, "state": state}))
    with machine(tmp_path / "one", config.model_dump(mode="json")) as worker:
        for route in ("fast", "deep"):
            reply = worker.chat({"model": route, **QUESTIONS["/v1/chat/completions"]})
            assert reply.status_code == 200, reply.text
            assert (worker.row_of(reply)["asset_version"] == "1") is (route == "fast")
