"""Speaks Anthropic's Messages API: a Claude client's own words passed on, chat said both ways.

Knows the endpoints and the headers; the words are in `request`, `reply` and `stream`. Refuses to know about money, time
or connections. Beta features are the operator's choice: an `anthropic-beta` header stands in the provider's `headers`.

Source: https://platform.claude.com/docs/en/api/overview, https://platform.claude.com/docs/en/api/messages/count_tokens
"""

from __future__ import annotations

from urllib.parse import urlsplit

from llmops.gateway.calls import Fault, Headers, Json, Operation, Reader, Relay, Reply, UpstreamRequest
from llmops.gateway.config import ProviderConfig, TargetConfig
from llmops.gateway.providers.anthropic.reply import chat_reply, native_reply, reply_fault
from llmops.gateway.providers.anthropic.request import NAME, messages_request
from llmops.gateway.providers.anthropic.stream import ChatReader, MessagesRelay
from llmops.gateway.providers.openai import own_headers
from llmops.gateway.reading import CALLER, dumped

API_VERSION = "2023-06-01"


class Anthropic:
    """Claude at Anthropic, or at any server that speaks its Messages API."""

    native: frozenset[Operation] = frozenset({"messages"})

    def __init__(self, config: ProviderConfig, api_key: str | None) -> None:
        self._base = urlsplit(config.base_url).path.rstrip("/")
        self._secret = api_key
        headers = [*own_headers(config), (b"anthropic-version", (config.api_version or API_VERSION).encode())]
        if api_key:
            headers.append((b"x-api-key", api_key.encode("ascii")))
        self._headers: Headers = tuple(headers)

    def build(self, operation: Operation, body: Json, target: TargetConfig) -> UpstreamRequest:
        if operation == "messages":
            return self._request("/messages", capped(body, target))
        if operation == "chat":
            return self._request("/messages", messages_request(body, target))
        raise CALLER.fault("model", f"leads to {NAME}, which offers no {operation}")

    def count_tokens(self, body: Json, target: TargetConfig) -> UpstreamRequest:
        """A request for the number of input tokens of a Messages request; costs nothing."""
        return self._request("/messages/count_tokens", {**body, "model": target.model})

    def reply(self, operation: Operation, body: bytes) -> Reply:
        return native_reply(body) if operation == "messages" else chat_reply(body)

    def fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        return reply_fault(status, headers, body, self._secret)

    def relay(self, operation: Operation, body: Json) -> Relay:
        return MessagesRelay(self._secret)

    def reader(self, body: Json) -> Reader:
        return ChatReader(self._secret)

    def _request(self, path: str, body: Json) -> UpstreamRequest:
        return UpstreamRequest(self._base + path, self._headers, dumped(body))


def capped(body: Json, target: TargetConfig) -> Json:
    """A Claude client's request, with the target's model and never more output than the target allows.

    Raises:
        Fault: `bad_request` for a choice that has a price or a place of its own, which only the operator may make.
    """
    if body.get("speed") not in (None, "standard"):
        raise CALLER.fault("speed", "must be standard: faster answers cost more than this gateway has a price for")
    if body.get("inference_geo") is not None:
        raise CALLER.fault("inference_geo", "is not the caller's choice here: the gateway's routes say where")
    asked, ceiling = body.get("max_tokens"), target.max_output_tokens
    limit = ceiling if asked is None else min(CALLER.count(asked, "max_tokens"), ceiling)
    return {**body, "model": target.model, "max_tokens": limit}
