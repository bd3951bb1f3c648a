"""Speaks OpenAI's API: to OpenAI, and to every server that copies it (vLLM, SGLang, TGI, Ollama, llama.cpp, LM Studio).

What the caller sent goes out as it came, unknown fields too, but for three things: the model's name, the enforced
maximum of output tokens, and `stream_options.include_usage`. Knows no dialect but OpenAI's and keeps no state.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import orjson

from llmops.core.errors import ConfigError
from llmops.gateway import chat
from llmops.gateway.calls import Fault, Headers, Json, Operation, Reader, Relay, Reply, UpstreamRequest
from llmops.gateway.ceilings import asked_output, choice_count
from llmops.gateway.config import ProviderConfig, TargetConfig
from llmops.gateway.providers.faults import read_fault
from llmops.gateway.providers.openai_reply import read_reply
from llmops.gateway.providers.openai_request import (
    PATHS,
    own_headers,
    refuse_background,
    refuse_unpriced,
    stream_options,
    streamed,
    wants_usage,
    without_extensions,
)
from llmops.gateway.providers.openai_stream import ChatReader, ChatRelay, ResponsesRelay

__all__ = ["OpenAI", "own_headers"]

_STREAMED: Final = frozenset({"chat", "completions"})
_GENERATING: Final = frozenset({"chat", "completions", "responses"})
_OPENAI_HOST: Final = "api.openai.com"
_LIMIT_NAMES: Final = ("max_completion_tokens", "max_tokens", "max_new_tokens", "n_predict")


class OpenAI:
    """One account at OpenAI, or one server that speaks its format."""

    def __init__(self, config: ProviderConfig, api_key: str | None) -> None:
        url = urlsplit(config.base_url)
        self._base = url.path.rstrip("/")
        self._is_openai = url.hostname == _OPENAI_HOST
        self._secret = api_key
        self.native: frozenset[Operation] = frozenset(config.operations or self._default_operations())
        if unknown := sorted(self.native.difference(PATHS)):
            raise ConfigError(
                f"a provider of kind `{config.kind}` cannot offer `{unknown[0]}`",
                hint="leave it out: it is translated to chat; or give that server an entry of kind `anthropic`",
            )
        self._paths = {operation: self._base + path for operation, path in PATHS.items()}
        self._limit_names = {operation: self._limit_name(operation) for operation in self.native}
        self._other_limit_names = {
            operation: [name for name in _LIMIT_NAMES if name != own] for operation, own in self._limit_names.items()
        }
        self._headers: Headers = (*self._authorization(config), *own_headers(config))

    def build(self, operation: Operation, body: Json, target: TargetConfig) -> UpstreamRequest:
        if operation not in self.native:
            raise Fault(
                "bad_request",
                f"the provider `{target.provider}` does not offer `{operation}`",
                400,
                code="unsupported_operation",
            )
        limit = asked_output(operation, body, target.max_output_tokens) if operation in _GENERATING else None
        out = self._adapted(operation, body, target, limit)
        try:
            data = orjson.dumps(out)
        except (TypeError, orjson.JSONEncodeError):
            raise Fault("bad_request", "the request holds text that is no Unicode or a number too large", 400) from None
        return UpstreamRequest(self._path(operation, target), self._headers, data, "POST", limit)

    def reply(self, operation: Operation, body: bytes) -> Reply:
        return read_reply(operation, body, self._secret)

    def fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        return read_fault(status, headers, body, self._secret)

    def relay(self, operation: Operation, body: Json) -> Relay:
        if operation == "responses":
            return ResponsesRelay(self._secret)
        return ChatRelay(
            wants_usage=wants_usage(body),
            choices=choice_count(operation, body),
            secret=self._secret,
            marker=b'"content":"' if operation == "chat" else b'"text":"',
        )

    def reader(self, body: Json) -> Reader:
        return ChatReader(choices=choice_count("chat", body), secret=self._secret)

    def _default_operations(self) -> tuple[Operation, ...]:
        always: tuple[Operation, ...] = ("chat", "completions", "embeddings")
        return (*always, "responses") if self._is_openai else always

    def _authorization(self, config: ProviderConfig) -> Headers:
        headers = []
        if self._secret:
            headers.append((b"authorization", b"Bearer " + self._secret.encode("ascii")))
        if config.organization:
            headers.append((b"openai-organization", config.organization.encode("ascii")))
        return headers

    def _path(self, operation: Operation, target: TargetConfig) -> str:
        return self._paths[operation]

    def _adapted(self, operation: Operation, body: Json, target: TargetConfig, limit: int | None) -> Json:
        """The body for this upstream, a copy."""
        out = (body if type(body) is dict else chat.plain(body)).copy()
        out["model"] = target.model
        if operation == "responses":
            refuse_background(body)
            out["max_output_tokens"] = limit
        elif limit is not None:
            for other in self._other_limit_names[operation]:
                if other in out:
                    del out[other]
            out[self._limit_names[operation]] = limit
        if "stream" in body and streamed(body) and operation != "responses":
            if operation not in _STREAMED:
                raise Fault("bad_request", f"`stream` is not possible for {operation}", 400, param="stream")
            out["stream_options"] = {**stream_options(body), "include_usage": True}
        return self._for_openai(out, target) if self._is_openai else out

    def _for_openai(self, out: Json, target: TargetConfig) -> Json:
        """What OpenAI itself and Azure need beyond what every compatible server takes."""
        if target.price is None:
            refuse_unpriced(out)
        return without_extensions(out)

    def _limit_name(self, operation: Operation) -> str:
        """OpenAI's reasoning models refuse `max_tokens`; many compatible servers know nothing else.

        Source: https://platform.openai.com/docs/api-reference/chat/create (max_tokens: deprecated)
        """
        return "max_completion_tokens" if operation == "chat" and self._is_openai else "max_tokens"
