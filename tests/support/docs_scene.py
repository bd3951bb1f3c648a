"""A configuration of the pages as it runs in tests: every provider played by a server that speaks its format.

What is shown stays as it is shown, secrets by reference included. Changed are only addresses, what lies on this machine
(`state`, ports, files) and, for Google, whom its key is shown to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
from tests.gateway.test_docs_configs import BLOCKS, FIRST, REFERENCE, completed
from tests.support.upstreams import bedrock
from tests.support.upstreams.anthropic import AnthropicServer
from tests.support.upstreams.bedrock import BedrockServer
from tests.support.upstreams.cohere import CohereServer
from tests.support.upstreams.gemini import GeminiServer
from tests.support.upstreams.openai import AzureServer, MistralServer, OpenAIServer
from tests.support.upstreams.vertex import TokenServer, VertexServer
from tests.support.upstreams.wire import KEY, Answer, Seen, WireServer
from tests.support.wire import certificate
from tests.support.worker import RunningWorker

from llmops.gateway.config import GatewayConfig, RouteConfig, TargetConfig

SERVERS: dict[str, type[WireServer]] = {
    "openai": OpenAIServer,
    "azure": AzureServer,
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
_HERE = ("state", "host", "port", "control")
_AWS = {"AccessKeyId": bedrock.ACCESS_KEY, "SecretAccessKey": bedrock.SECRET_KEY}


def secrets() -> dict[str, str]:
    """The variables that the pages refer to."""
    named = {
        name for kind, name in REFERENCE.findall(f"{[block.values[0] for block in BLOCKS]} {FIRST}") if kind == "env"
    }
    aws = {"AWS_ACCESS_KEY_ID": bedrock.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": bedrock.SECRET_KEY}
    return {**dict.fromkeys(named, KEY), **aws}


class World:
    """The servers, by what the pages say of a provider; each is begun when it is first needed."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._servers: dict[str, WireServer] = {}
        (folder / "secrets").mkdir()
        for name in ("openai", "token"):
            (folder / "secrets" / name).write_text(KEY)
        (folder / "secrets" / "aws.json").write_text(json.dumps(_AWS))
        self._tokens = TokenServer(*certificate(folder))
        stack.callback(self._tokens.close)
        (folder / "secrets" / "google.json").write_text(json.dumps(self._tokens.key_file()))

    def server(self, name: str, provider: dict[str, Any]) -> WireServer:
        mark = json.dumps([name, provider], sort_keys=True)
        if mark not in self._servers:
            server = SERVERS[provider.get("kind", "openai")]()
            self._stack.callback(server.close)
            if isinstance(server, OpenAIServer):
                server.open = "api_key" not in provider
            if isinstance(server, BedrockServer):
                server.region = provider["location"]
            if isinstance(server, VertexServer):
                server.place = (provider["project"], provider["location"])
                server.tokens = self._tokens if "credentials" in provider else None
            self._servers[mark] = server
        self._servers[mark].forget()
        self._servers[mark].answer = lambda seen: Answer()
        return self._servers[mark]

    def moved(self, provider: dict[str, Any], server: WireServer) -> dict[str, Any]:
        """The provider at its server."""
        found = dict(provider)
        base = urlsplit(found.get("url", "")).path if found.get("kind") == "azure" else ""
        found["url"] = f"{server.url}{base}"
        for name in ("api_key", "credentials"):
            if str(found.get(name, "")).startswith("file:"):
                found[name] = f"file:{self.folder}/{found[name].removeprefix('file:')}"
        if found.get("kind") == "vertex" and "credentials" in found:
            found["tls"] = {"ca_file": str(self.folder / "localhost.pem")}
        return found


@dataclass
class Scene:
    """One configuration of the pages, running."""

    worker: RunningWorker
    config: GatewayConfig
    servers: dict[str, WireServer]
    token: str = ""
    _clients: list[httpx.Client] = field(default_factory=list)

    def ask(self, route: str, path: str = "", *, token: str | None = None, **body: Any) -> httpx.Response:
        """One request; `headers` are the request's own."""
        path = path or PATHS.get(route, "/v1/chat/completions")
        headers = {"authorization": f"Bearer {token or self.token}", **body.pop("headers", {})}
        if not self._clients:
            self._clients.append(self.worker.client())
        asked = {"model": route, **QUESTIONS.get(path, {}), **body}
        return self._clients[0].post(path, json=asked, headers=headers)

    def say(self, text: str, **more: Any) -> None:
        """What every model answers from now on."""
        for server in self.servers.values():
            server.answer = lambda seen: Answer(pieces=(text,), **more)

    def asked(self) -> list[Seen]:
        """What reached any provider."""
        return [seen for server in self.servers.values() for seen in server.requests]

    @contextmanager
    def failing(self, *targets: TargetConfig, times: int = 10**6) -> Iterator[None]:
        """Each of these models answers with an error, so many times."""
        left = {(target.provider, target.model): times for target in targets}
        before = {name: server.answer for name, server in self.servers.items()}

        def fails(name: str, seen: Seen) -> bool:
            for (provider, model), more in left.items():
                if provider == name and more > 0 and model in f"{unquote(seen.path)} {seen.body.get('model')}":
                    left[provider, model] = more - 1
                    return True
            return False

        for name, server in self.servers.items():
            server.answer = lambda seen, name=name: (  # type: ignore[misc]
                Answer(status=500, error=("InternalServerException", "scripted failure"))
                if fails(name, seen)
                else before[name](seen)
            )
        yield
        for name, server in self.servers.items():
            server.answer = before[name]

    def close(self) -> None:
        for client in self._clients:
            client.close()


def named(target: TargetConfig) -> str:
    return f"{target.provider}/{target.model}"


def inside(config: GatewayConfig, route: RouteConfig) -> list[TargetConfig]:
    """The targets that the route's regions allow."""
    allowed = route.regions
    return [target for target in route.targets if not allowed or config.providers[target.provider].region in allowed]


def first_tier(config: GatewayConfig, route: RouteConfig) -> list[TargetConfig]:
    found = inside(config, route)
    return [target for target in found if target.tier == min(one.tier for one in found)]


def staged(block: str, world: World, folder: Path, **more: Any) -> tuple[dict[str, Any], dict[str, WireServer]]:
    """A configuration as it runs, and the server of each of its providers."""
    shown = completed(block, folder / "page.yaml")
    servers = {name: world.server(name, dict(provider)) for name, provider in shown["providers"].items()}
    shown["providers"] = {name: world.moved(dict(shown["providers"][name]), server) for name, server in servers.items()}
    for name in _HERE:
        shown.pop(name, None)
    shown.get("store", {}).pop("redis_url", None)
    http = dict(shown.pop("http", {}))
    own = {name: value for name, value in http.items() if not name.startswith("tls_")}
    return {**shown, "http": own, "port": 0, "shutdown_s": 5, **more}, servers


@contextmanager
def playing(worker: RunningWorker, shown: dict[str, Any], servers: dict[str, WireServer]) -> Iterator[Scene]:
    """The worker has taken the configuration over, and knows a key of its first team."""
    mark = f"page-{len(worker.policies)}"  # tells that it has
    target = {"provider": next(iter(shown["providers"])), "model": "none", "price": {"input": 0}}
    routes = [*shown["routes"], {"name": mark, "targets": [target]}]
    worker.config = {"state": worker.config["state"], **shown, "routes": routes}
    config = worker.checked
    token = worker.key(publish_now=False, team=next(iter(config.teams), None))
    worker.publish_keys()
    worker.reload()
    with worker.client(token) as client:
        worker.until(lambda: mark in client.get("/v1/models").text)
    scene = Scene(worker, config.model_copy(update={"routes": config.routes[:-1]}), servers, token)
    try:
        yield scene
    finally:
        scene.close()
