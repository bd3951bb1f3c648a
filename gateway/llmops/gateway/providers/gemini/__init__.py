"""Speaks Gemini's API: chat by `generateContent`, whole and streamed, embeddings by `batchEmbedContents`.

Knows the endpoints and the header; the words are in `request`, `reply` and `stream`, which Vertex AI has too.

Source: https://ai.google.dev/api, https://ai.google.dev/api/embeddings
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from llmops.gateway import chat
from llmops.gateway.calls import Fault, Headers, Json, Operation, Reader, Relay, Reply, UpstreamRequest
from llmops.gateway.config import ProviderConfig, TargetConfig
from llmops.gateway.providers.gemini.reply import embedded, generated, reply_fault
from llmops.gateway.providers.gemini.request import NAME, embed_request, generate_request, model_path
from llmops.gateway.providers.gemini.stream import ContentReader
from llmops.gateway.providers.openai import own_headers
from llmops.gateway.reading import CALLER, dumped


class Gemini:
    """Google's models by the Gemini API."""

    native: frozenset[Operation] = frozenset()

    def __init__(self, config: ProviderConfig, api_key: str | None) -> None:
        self._base = urlsplit(config.base_url).path.rstrip("/")
        self._secret = api_key
        headers = own_headers(config)
        if api_key:
            headers.append((b"x-goog-api-key", api_key.encode("ascii")))
        self._headers: Headers = tuple(headers)

    def build(self, operation: Operation, body: Json, target: TargetConfig) -> UpstreamRequest:
        if operation == "chat":
            method = "streamGenerateContent?alt=sse" if body.get("stream") else "generateContent"
            return self._request(target, method, generate_request(chat.plain(body), target))
        if operation == "embeddings":
            return self._request(target, "batchEmbedContents", embed_request(body, target))
        raise CALLER.fault("model", f"leads to {NAME}, which offers no {operation}")

    def reply(self, operation: Operation, body: bytes) -> Reply:
        return embedded(body) if operation == "embeddings" else generated(body)

    def fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        return reply_fault(status, headers, body, self._secret)

    def relay(self, operation: Operation, body: Json) -> Relay:
        raise CALLER.fault("stream", f"cannot be passed on as it comes: {NAME} has a format of its own")

    def reader(self, body: Json) -> Reader:
        return ContentReader(self._secret)

    def _request(self, target: TargetConfig, method: str, body: Json) -> UpstreamRequest:
        path = f"{self._base}/{quote(model_path(target.model), safe='/-._~')}:{method}"
        return UpstreamRequest(path, self._headers, dumped(body))
