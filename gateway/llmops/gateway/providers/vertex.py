"""Speaks Vertex AI's API: Google's models in Gemini's words, Anthropic's in their own, at one address.

Knows where a model stands in a project and a location, and which of the two formats it speaks; the words are those of
`gemini` and `anthropic`. The access token that each request needs changes by the hour: `signing` adds it.

Source: https://docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference,
https://docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api,
https://platform.claude.com/docs/en/build-with-claude/claude-on-vertex-ai
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlsplit

from llmops.core.errors import ConfigError
from llmops.gateway import answers, chat
from llmops.gateway.calls import (
    Fault,
    Headers,
    Json,
    Operation,
    Provider,
    Reader,
    Relay,
    Reply,
    UpstreamRequest,
    Usage,
)
from llmops.gateway.config import ProviderConfig, TargetConfig
from llmops.gateway.providers.anthropic import Anthropic, capped
from llmops.gateway.providers.anthropic.reply import reply_fault as anthropic_fault
from llmops.gateway.providers.anthropic.request import messages_request
from llmops.gateway.providers.gemini import Gemini
from llmops.gateway.providers.gemini.reply import read_usage
from llmops.gateway.providers.gemini.reply import reply_fault as google_fault
from llmops.gateway.providers.openai import own_headers
from llmops.gateway.reading import CALLER, UPSTREAM, dumped

NAME = "Vertex AI"
ANTHROPIC_VERSION = "vertex-2023-10-16"

_COUNTER = "count-tokens"
_FULL_NAME = re.compile(r"(?:publishers/(?P<publisher>[a-z0-9-]+)/models|endpoints)/[^/]+")
_GOOGLE_STATUS = re.compile(rb'"status"\s*:\s*"[A-Z_]+"')
_EMBEDDING_KNOWN = frozenset({"model", "input", "dimensions", "encoding_format", "user"})
_EMBED_CONTENT = re.compile(r"gemini-embedding-(?!001$)")
"""Models that take one content by `embedContent`; those before take instances by `predict`."""


class Vertex:
    """One project in one location. Speaks for Google's models itself until it is asked for a model's own voice."""

    native: frozenset[Operation] = frozenset()

    def __init__(self, config: ProviderConfig, api_key: str | None) -> None:
        self._google = VertexGemini(config, api_key)
        self._anthropic = VertexClaude(config, api_key)

    def of_model(self, model: str) -> Provider:
        publisher = publisher_of(model)
        if publisher == "anthropic":
            return self._anthropic
        if publisher in ("google", None):
            return self._google
        raise ConfigError(
            f"the model `{model}` of `{publisher}` speaks a format that is not known at {NAME}",
            hint="Google's and Anthropic's models are: name one of those",
        )

    def build(self, operation: Operation, body: Json, target: TargetConfig) -> UpstreamRequest:
        return self.of_model(target.model).build(operation, body, target)

    def reply(self, operation: Operation, body: bytes) -> Reply:
        return self._google.reply(operation, body)

    def fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        return self._google.fault(status, headers, body)

    def relay(self, operation: Operation, body: Json) -> Relay:
        return self._google.relay(operation, body)

    def reader(self, body: Json) -> Reader:
        return self._google.reader(body)


def publisher_of(model: str) -> str | None:
    """Whose model it is; None for an endpoint of the project's own, where tuned models of Google's stand."""
    if (found := _FULL_NAME.fullmatch(model)) is not None:
        return found["publisher"]
    if "/" in model:
        raise ConfigError(
            f"the model `{model}` is not named as {NAME} names it",
            hint="give its name alone, or publishers/PUBLISHER/models/MODEL, or endpoints/NUMBER",
        )
    return "anthropic" if model.startswith("claude-") else "google"


class _Place:
    """Where the models of one project and location stand."""

    def __init__(self, config: ProviderConfig) -> None:
        base = urlsplit(config.base_url).path.rstrip("/")
        self._parent = f"{base}/projects/{config.project}/locations/{config.location}"

    def path(self, model: str, method: str) -> str:
        publisher = publisher_of(model)
        name = model if "/" in model else f"publishers/{publisher}/models/{model}"
        return f"{self._parent}/{quote(name, safe='/-._~@')}:{method}"


class VertexGemini(Gemini):
    """Google's models."""

    def __init__(self, config: ProviderConfig, api_key: str | None) -> None:
        super().__init__(config, None)
        self._secret = api_key
        self._place = _Place(config)

    def build(self, operation: Operation, body: Json, target: TargetConfig) -> UpstreamRequest:
        if operation != "embeddings":
            return super().build(operation, body, target)
        for name, value in body.items():
            if value is not None and name not in _EMBEDDING_KNOWN:
                raise CALLER.fault(name, f"has no counterpart at {NAME}")
        if _EMBED_CONTENT.search(target.model):
            return self._request(target, "embedContent", _one_content(body))
        return self._request(target, "predict", _instances(body))

    def reply(self, operation: Operation, body: bytes) -> Reply:
        return _embedded(body) if operation == "embeddings" else super().reply(operation, body)

    def _request(self, target: TargetConfig, method: str, body: Json) -> UpstreamRequest:
        return UpstreamRequest(self._place.path(target.model, method), self._headers, dumped(body))


class VertexClaude(Anthropic):
    """Anthropic's models. The model stands in the path, the version in the body."""

    def __init__(self, config: ProviderConfig, api_key: str | None) -> None:
        super().__init__(config, None)
        self._secret = api_key
        self._headers = tuple(own_headers(config))
        self._place = _Place(config)
        self._version = config.api_version or ANTHROPIC_VERSION

    def build(self, operation: Operation, body: Json, target: TargetConfig) -> UpstreamRequest:
        if operation not in ("messages", "chat"):
            raise CALLER.fault("model", f"leads to Anthropic's models, which offer no {operation}")
        told = capped(body, target) if operation == "messages" else messages_request(body, target)
        del told["model"]
        method = "streamRawPredict" if told.get("stream") else "rawPredict"
        return self._told(self._place.path(target.model, method), told)

    def count_tokens(self, body: Json, target: TargetConfig) -> UpstreamRequest:
        """Here the model's name stands in the body: that of the path is the counter's."""
        model = target.model.rpartition("/")[2]
        path = self._place.path(f"publishers/anthropic/models/{_COUNTER}", "rawPredict")
        return self._told(path, {**body, "model": model})

    def fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        """Quotas, keys and unknown models are Google's to refuse, in its own words."""
        read = google_fault if _GOOGLE_STATUS.search(body[:4096]) else anthropic_fault
        return read(status, headers, body, self._secret)

    def _told(self, path: str, body: Json) -> UpstreamRequest:
        return UpstreamRequest(path, self._headers, dumped({**body, "anthropic_version": self._version}))


def _one_content(body: Json) -> Json:
    texts = chat.embedding_texts(body)
    if len(texts) > 1:
        raise CALLER.fault("input", f"must be one text: this model embeds one a request at {NAME}")
    request: Json = {"content": {"parts": [{"text": texts[0]}]}}
    if body.get("dimensions") is not None:
        request["outputDimensionality"] = CALLER.count(body["dimensions"], "dimensions")
    return request


def _instances(body: Json) -> Json:
    request: Json = {"instances": [{"content": text} for text in chat.embedding_texts(body)]}
    if body.get("dimensions") is not None:
        request["parameters"] = {"outputDimensionality": CALLER.count(body["dimensions"], "dimensions")}
    return request


def _embedded(body: bytes) -> Reply:
    """The reply of `predict` or `embedContent` in OpenAI's format."""
    told = UPSTREAM.object(UPSTREAM.parsed(body, "body"), "body")
    if told.get("embedding") is not None:
        usage = None if told.get("usageMetadata") is None else read_usage(told["usageMetadata"])
        vectors = [_values(told["embedding"], "embedding")]
        return Reply(dumped(answers.embeddings(vectors, "", usage)), usage)
    vectors, tokens = [], 0
    for number, prediction in enumerate(UPSTREAM.objects(told.get("predictions"), "predictions")):
        where = f"predictions.{number}.embeddings"
        embedding = UPSTREAM.object(prediction.get("embeddings"), where)
        vectors.append(_values(embedding, where))
        statistics = UPSTREAM.object(embedding.get("statistics") or {}, f"{where}.statistics")
        tokens += UPSTREAM.count(statistics.get("token_count"), f"{where}.statistics.token_count")
    if not vectors:
        raise UPSTREAM.fault("predictions", "is empty")
    usage = Usage(input_tokens=tokens)
    return Reply(dumped(answers.embeddings(vectors, "", usage)), usage)


def _values(embedding: Any, where: str) -> list[float]:
    values = UPSTREAM.object(embedding, where).get("values")
    if not isinstance(values, list):
        raise UPSTREAM.fault(f"{where}.values", "must be a list")
    return values
