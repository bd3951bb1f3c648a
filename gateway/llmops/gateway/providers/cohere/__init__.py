"""Speaks Cohere's API v2: chat whole and streamed, embeddings, rerank.

Knows the endpoints; the words are in `request`, `reply` and `stream`. Rerank is Cohere's own format at both doors.

Source: https://docs.cohere.com/reference/about
"""

from __future__ import annotations

from urllib.parse import urlsplit

from llmops.gateway import chat
from llmops.gateway.calls import Fault, Headers, Json, Operation, Reader, Relay, Reply, UpstreamRequest
from llmops.gateway.config import ProviderConfig, TargetConfig
from llmops.gateway.providers.cohere.reply import chat_reply, embed_reply, rerank_reply
from llmops.gateway.providers.cohere.request import NAME, chat_request, embed_request, rerank_request
from llmops.gateway.providers.cohere.stream import EventReader
from llmops.gateway.providers.faults import read_fault
from llmops.gateway.providers.openai import own_headers
from llmops.gateway.reading import CALLER, dumped


class Cohere:
    """Cohere's models."""

    native: frozenset[Operation] = frozenset({"rerank"})

    def __init__(self, config: ProviderConfig, api_key: str | None) -> None:
        self._base = urlsplit(config.base_url).path.rstrip("/")
        self._secret = api_key
        headers = own_headers(config)
        if api_key:
            headers.append((b"authorization", b"Bearer " + api_key.encode("ascii")))
        self._headers: Headers = tuple(headers)

    def build(self, operation: Operation, body: Json, target: TargetConfig) -> UpstreamRequest:
        if operation == "chat":
            return self._request("/v2/chat", chat_request(chat.plain(body), target))
        if operation == "embeddings":
            return self._request("/v2/embed", embed_request(body, target))
        if operation == "rerank":
            return self._request("/v2/rerank", rerank_request(body, target))
        raise CALLER.fault("model", f"leads to {NAME}, which offers no {operation}")

    def reply(self, operation: Operation, body: bytes) -> Reply:
        if operation == "embeddings":
            return embed_reply(body)
        return rerank_reply(body) if operation == "rerank" else chat_reply(body)

    def fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        return read_fault(status, headers, body, self._secret)

    def relay(self, operation: Operation, body: Json) -> Relay:
        raise CALLER.fault("stream", f"cannot be passed on as it comes: {NAME} has a format of its own")

    def reader(self, body: Json) -> Reader:
        return EventReader(self._secret)

    def _request(self, path: str, body: Json) -> UpstreamRequest:
        return UpstreamRequest(self._base + path, self._headers, dumped(body))
