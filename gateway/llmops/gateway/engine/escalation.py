"""Says whether a cheap target's answer is good enough, or a better one should be asked.

Knows whole answers in any caller's format; who is asked next is `exchange`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from llmops.core.errors import ConfigError
from llmops.gateway.calls import Json
from llmops.gateway.config import EscalateConfig

_MOST_CHARACTERS = 200_000


class Escalation:
    """The rule of one route."""

    def __init__(self, config: EscalateConfig) -> None:
        self.to_tier = config.to_tier
        self._unless = _compiled(config.unless)
        self._when = _compiled(config.when)
        self._valid_json = config.valid_json
        self._min_logprob = config.min_logprob

    def reason(self, request: Json, reply: Json) -> str | None:
        """Why the answer is not good enough; None where it is."""
        if _calls_tools(reply):
            return None  # a tool call is an answer without text
        text = "".join(answer_texts(reply))[:_MOST_CHARACTERS]
        if self._unless is not None and not self._unless.search(text):
            return "unless"
        if self._when is not None and self._when.search(text):
            return "when"
        if self._valid_json and _json_wanted(request) and not _is_json(text):
            return "valid_json"
        if self._min_logprob is not None:
            mean = mean_logprob(reply)
            if mean is not None and mean < self._min_logprob:
                return "min_logprob"
        return None


def answer_texts(reply: Json) -> Iterator[str]:
    """The texts of an answer in the format of chat, completions, messages or responses."""
    for choice in _dicts(reply.get("choices")):
        message = choice.get("message")
        content = message.get("content") if isinstance(message, dict) else choice.get("text")
        if isinstance(content, str):
            yield content
    for block in _dicts(reply.get("content")):
        if isinstance(block.get("text"), str):
            yield block["text"]
    for item in _dicts(reply.get("output")):
        for part in _dicts(item.get("content")):
            if isinstance(part.get("text"), str):
                yield part["text"]


def mean_logprob(reply: Json) -> float | None:
    """The mean log probability of the first choice's tokens, where the answer holds them."""
    for choice in _dicts(reply.get("choices")):
        logprobs = choice.get("logprobs")
        if not isinstance(logprobs, dict):
            continue
        found = logprobs.get("token_logprobs") or [token.get("logprob") for token in _dicts(logprobs.get("content"))]
        values = [value for value in found if isinstance(value, int | float)]
        if values:
            return sum(values) / len(values)
    return None


def _calls_tools(reply: Json) -> bool:
    for choice in _dicts(reply.get("choices")):
        message = choice.get("message")
        if isinstance(message, dict) and message.get("tool_calls"):
            return True
    blocks = (*_dicts(reply.get("content")), *_dicts(reply.get("output")))
    return any(block.get("type") in ("tool_use", "function_call") for block in blocks)


def _json_wanted(request: Json) -> bool:
    asked = request.get("response_format")
    if isinstance(asked, dict) and asked.get("type") in ("json_object", "json_schema"):
        return True
    text = request.get("text")
    output = text.get("format") if isinstance(text, dict) else request.get("output_format")
    return isinstance(output, dict) and output.get("type") in ("json_object", "json_schema")


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _dicts(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise ConfigError(f"`{pattern}` of `escalate` is no regular expression: {error}") from error
