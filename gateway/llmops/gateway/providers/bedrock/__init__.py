"""Speaks Amazon Bedrock's runtime API: chat by Converse and ConverseStream, embeddings by InvokeModel.

Knows the endpoints; the words are in `request`, `blocks`, `reply`, `stream` and `embed`. Who asks is proven by a
signature over the whole request and the moment, or by a token that changes, so it is not known here: `signing` adds it
to what `build` gives.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_Operations_Amazon_Bedrock_Runtime.html
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from llmops.gateway.calls import Fault, Headers, Json, Operation, Reader, Relay, Reply, UpstreamRequest
from llmops.gateway.config import ProviderConfig, TargetConfig
from llmops.gateway.providers.bedrock.embed import embed_reply, embed_request
from llmops.gateway.providers.bedrock.reply import chat_reply, reply_fault
from llmops.gateway.providers.bedrock.request import NAME, converse_request
from llmops.gateway.providers.bedrock.stream import ConverseReader
from llmops.gateway.providers.openai import own_headers
from llmops.gateway.reading import CALLER, dumped


class Bedrock:
    """The models of one region."""

    native: frozenset[Operation] = frozenset()

    def __init__(self, config: ProviderConfig, api_key: str | None) -> None:
        self._base = urlsplit(config.base_url).path.rstrip("/")
        self._secret = api_key
        self._headers: Headers = tuple(own_headers(config))

    def build(self, operation: Operation, body: Json, target: TargetConfig) -> UpstreamRequest:
        if operation == "chat":
            action = "converse-stream" if body.get("stream") else "converse"
            return self._request(target, action, converse_request(body, target))
        if operation == "embeddings":
            return self._request(target, "invoke", embed_request(body, target))
        raise CALLER.fault("model", f"leads to {NAME}, which offers no {operation}")

    def reply(self, operation: Operation, body: bytes) -> Reply:
        return embed_reply(body) if operation == "embeddings" else chat_reply(body)

    def fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        return reply_fault(status, headers, body, self._secret)

    def relay(self, operation: Operation, body: Json) -> Relay:
        raise CALLER.fault("stream", f"cannot be passed on as it comes: {NAME} has a format of its own")

    def reader(self, body: Json) -> Reader:
        return ConverseReader(self._secret)

    def _request(self, target: TargetConfig, action: str, body: Json) -> UpstreamRequest:
        """A model's id may be an ARN, with slashes and colons that must not end a part of the path."""
        path = f"{self._base}/model/{quote(target.model, safe='')}/{action}"
        return UpstreamRequest(path, self._headers, dumped(body))
