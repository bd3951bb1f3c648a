"""Every route of every documented configuration is served: by a real worker, its providers played by local servers.

The configuration stays as it is shown, but for addresses and secrets, TLS and Redis. One worker takes them
over, one after the other, without a restart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.test_docs_configs import BLOCKS, completed
from tests.support.upstreams.anthropic import AnthropicServer
from tests.support.upstreams.bedrock import BedrockServer
from tests.support.upstreams.cohere import CohereServer
from tests.support.upstreams.gemini import GeminiServer
from tests.support.upstreams.openai import KEY, MistralServer, OpenAIServer
from tests.support.upstreams.vertex import LOCATION, PROJECT, VertexServer
from tests.support.upstreams.wire import WireServer, running
from tests.support.worker import RunningWorker, route, running_worker

from llmops.gateway.config import GatewayConfig, RouteConfig

SERVERS: dict[str, type[WireServer]] = {
    "openai": OpenAIServer,
    "azure": OpenAIServer,
    "anthropic": AnthropicServer,
    "gemini": GeminiServer,
    "cohere": CohereServer,
    "mistral": MistralServer,
    "bedrock": BedrockServer,
    "vertex": VertexServer,
}
QUESTIONS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Which towns lie on the river?"}]},
    "/v1/embeddings": {"input": "a river"},
    "/v1/rerank": {"query": "a river", "documents": ["a town", "a boat"]},
}
PATHS = {"embeddings": "/v1/embeddings", "rerank": "/v1/rerank", "search": "/v1/rerank"}
"""Route names of the pages that are asked for something else than chat."""


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        yield {kind: stack.enter_context(running(server)).url for kind, server in SERVERS.items()}


@pytest.fixture(scope="module")
def worker(urls: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    with running_worker(
        tmp_path_factory.mktemp("served"), providers={"first": {"url": urls["openai"]}}, routes=[route()]
    ) as found:
        yield found


def redirected(block: str, urls: dict[str, str], folder: Path) -> dict[str, Any]:
    """The configuration with local servers for its providers."""
    secret = folder / "key"
    secret.write_text(KEY, encoding="utf-8")
    config = completed(block, folder / "page.yaml")
    config["providers"] = {name: dict(provider) for name, provider in config["providers"].items()}
    for provider in config["providers"].values():
        kind = provider.get("kind", "openai")
        provider |= {"url": urls[kind], "api_key": f"file:{secret}"}
        provider.pop("tls", None)
        provider.pop("api_version", None)
        provider.pop("credentials", None)
        provider.pop("aws", None)
        if kind == "vertex":
            provider |= {"project": PROJECT, "location": LOCATION}
        if kind == "azure":  # the wire format is the same, but for addresses
            provider["kind"] = "openai"
    for elsewhere in ("state", "host", "port", "control", "http"):
        config.pop(elsewhere, None)
    config.get("store", {}).pop("redis_url", None)
    return config


@pytest.mark.parametrize("block", BLOCKS)
def test_every_route_answers(block: str, urls: dict[str, str], worker: RunningWorker, tmp_path: Path) -> None:
    shown = redirected(block, urls, tmp_path)
    mark = f"page-{tmp_path.name}"  # tells that the worker has taken this one over
    mark_target = {"provider": next(iter(shown["providers"])), "model": "none", "price": {"input": 0}}
    routes = [*shown["routes"], {"name": mark, "targets": [mark_target]}]
    worker.config = {"state": worker.config["state"], "port": 0, "shutdown_s": 5, **shown, "routes": routes}
    config = worker.checked
    token = worker.key(publish_now=False, team=next(iter(config.teams), None))
    worker.publish_keys()
    worker.reload()
    with worker.client(token) as client:
        worker.until(lambda: mark in client.get("/v1/models").text)
    for shown_route in config.routes[:-1]:
        check_route(worker, config, shown_route, token)


def check_route(worker: RunningWorker, config: GatewayConfig, asked: RouteConfig, token: str) -> None:
    path = PATHS.get(asked.name, "/v1/chat/completions")
    with worker.client(token) as client:
        reply = client.post(path, json={"model": asked.name, **QUESTIONS[path]})
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-llmops-route"] == asked.name
    inside = [
        target for target in asked.targets if not asked.regions or region(config, target.provider) in asked.regions
    ]
    lowest = min(target.tier for target in inside)
    first = {f"{target.provider}/{target.model}": target for target in inside if target.tier == lowest}
    answered = first[reply.headers["x-llmops-target"]]
    free = config.unpriced == "free" or (
        answered.price is not None and not answered.price.input + answered.price.search
    )
    assert (float(reply.headers["x-llmops-cost-usd"]) == 0) is free


def region(config: GatewayConfig, provider: str) -> str | None:
    return config.providers[provider].region
