"""Drives a provider against a test server over a real socket, without the gateway: build, send, read.

Also the values that the tests of several providers share: a target, a conversation with everything in it.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.support.upstreams.wire import KEY, WireServer

from llmops.gateway.calls import Fault, Operation, Provider, Reader, Relay, Reply
from llmops.gateway.config import ProviderConfig, ProviderKind, TargetConfig
from llmops.gateway.providers import open_provider

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}},
            "required": ["location"],
        },
    },
}


def target(model: str = "claude-opus-5-5", **more: Any) -> TargetConfig:
    return TargetConfig(provider="upstream", model=model, **more)


def provider_of(kind: ProviderKind, server: WireServer, key: str = KEY) -> Provider:
    more = {"location": "eu-central-1", "api_key": "env:NEVER_READ"} if kind == "bedrock" else {}
    return open_provider(ProviderConfig.model_validate({"kind": kind, "url": server.url, **more}), key)


def ask(provider: Provider, server: WireServer, operation: Operation, body: dict[str, Any], to: TargetConfig) -> Reply:
    """A whole reply; raises the fault of an error reply."""
    status, headers, data = _send(provider, server, operation, body, to)
    if status != 200:
        raise provider.fault(status, headers, data)
    return provider.reply(operation, data)


@dataclass
class Streamed:
    """What came of a stream, fed in pieces of `cut` bytes."""

    state: Reader | Relay
    chunks: list[dict[str, Any]] = field(default_factory=list)
    passed: bytes = b""

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [chunk["choices"][0]["delta"] for chunk in self.chunks if chunk["choices"]]

    @property
    def finish(self) -> str | None:
        found = [chunk["choices"][0]["finish_reason"] for chunk in self.chunks if chunk["choices"]]
        return next((finish for finish in found if finish), None)

    def text(self, name: str = "content") -> str:
        return "".join(delta.get(name) or "" for delta in self.deltas)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """Put together as a client does."""
        calls: dict[int, dict[str, Any]] = {}
        for delta in self.deltas:
            for piece in delta.get("tool_calls", []):
                call = calls.setdefault(piece["index"], {"arguments": ""})
                call.update({key: piece[key] for key in ("id", "extra_content") if key in piece})
                call["name"] = call.get("name") or piece["function"].get("name")
                call["arguments"] += piece["function"].get("arguments") or ""
        return [calls[index] for index in sorted(calls)]


def ask_stream(
    provider: Provider, server: WireServer, body: dict[str, Any], to: TargetConfig, cut: int = 37
) -> Streamed:
    """A stream of chat, or of `messages` where the body is a Claude client's."""
    operation: Operation = "messages" if "messages" in provider.native else "chat"
    native = operation == "messages" and "max_tokens" in body and "stream_options" not in body
    operation = operation if native else "chat"
    status, headers, data = _send(provider, server, operation, {**body, "stream": True}, to)
    if status != 200:
        raise provider.fault(status, headers, data)
    state: Any = provider.relay(operation, body) if native else provider.reader(body)
    streamed = Streamed(state)
    for piece in pieces(data, cut):
        if native:
            streamed.passed += state.feed(piece)
        else:
            streamed.chunks += state.feed(piece)
    return streamed


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _send(
    provider: Provider, server: WireServer, operation: Operation, body: dict[str, Any], to: TargetConfig
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    before = json.dumps(body, sort_keys=True)
    request = provider.build(operation, body, to)
    assert json.dumps(body, sort_keys=True) == before, "the caller's body was changed"
    connection = http.client.HTTPConnection(str(urlsplit(server.url).netloc), timeout=60)
    try:
        headers = {name.decode(): value.decode() for name, value in request.headers}
        connection.request(request.method, request.path, request.body, headers)
        response = connection.getresponse()
        told = [(name.encode(), value.encode()) for name, value in response.getheaders()]
        try:
            data = response.read()
        except http.client.IncompleteRead as cut:
            data = cut.partial
        return response.status, told, data
    finally:
        connection.close()


def fault_of(*args: Any, **named: Any) -> Fault:
    """The fault that `ask` ends in."""
    try:
        ask(*args, **named)
    except Fault as fault:
        return fault
    raise AssertionError("no fault")
