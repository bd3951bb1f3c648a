"""Builds answers in OpenAI's format from what other providers said: completions, chunks, embeddings, usage.

Knows the shapes that OpenAI's clients read; knows no provider. The clock is read for `created` alone, which those
clients want and other providers do not tell.

Source: https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from llmops.gateway.calls import Json, Usage


def completion(id_: str, model: str, message: Json, finish: str, usage: Usage | None) -> Json:
    """A whole chat completion with one choice."""
    return {
        "id": id_,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": usage_json(usage or Usage()),
    }


def assistant(
    texts: Sequence[str], thoughts: Sequence[str], calls: Sequence[Json], thinking: Sequence[Json] = ()
) -> Json:
    """A whole message of the model. Nothing is said where there is nothing.

    Args:
        thoughts: the visible reasoning.
        thinking: Anthropic's thinking blocks, in which form they can be sent back.
    """
    message: Json = {"role": "assistant", "content": "".join(texts) if texts else None, "refusal": None}
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if thinking:
        message["thinking_blocks"] = list(thinking)
    if calls:
        message["tool_calls"] = list(calls)
    return message


@dataclass(slots=True)
class Chunks:
    """Builds the chunks of one streamed completion, which share id, time and model."""

    id: str = ""
    model: str = ""
    created: int = 0

    def begin(self, id_: str, model: str) -> Json:
        self.id, self.model, self.created = id_, model, int(time.time())
        return self.delta({"role": "assistant", "content": ""})

    def delta(self, delta: Json, finish: str | None = None) -> Json:
        return self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}])

    def usage(self, usage: Usage) -> Json:
        return {**self._chunk([]), "usage": usage_json(usage)}

    def _chunk(self, choices: Sequence[Json]) -> Json:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def usage_json(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


class Tally:
    """Counts the tokens of a stream as they come: the larger of pieces seen (at least a token each) and bytes / 4.

    Source: https://help.openai.com/en/articles/4936856-what-are-tokens-and-how-to-count-them
    """

    __slots__ = ("_bytes", "_pieces")

    def __init__(self) -> None:
        self._pieces = self._bytes = 0

    def add(self, text: str) -> None:
        if text:
            self._pieces += 1
            self._bytes += len(text) if text.isascii() else len(text.encode(errors="replace"))

    def add_escaped(self, text: bytes) -> None:
        """A piece as it stands between the quotes of JSON."""
        self._pieces += 1
        self._bytes += len(text)

    @property
    def tokens(self) -> int:
        return max(self._pieces, (self._bytes + 3) // 4)


def embeddings(vectors: list[list[float]], model: str, usage: Usage | None) -> Json:
    """A reply to an embeddings request in OpenAI's format."""
    tokens = usage.input_tokens if usage else 0
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": number, "embedding": vector} for number, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
