"""How much a request can use at most, before it is sent, and about how much it will.

The bounds are `ceilings`' matter; this adds the estimate that rules and balancing go by, and that stands in for usage
which never arrived. Most requests are `plain`: texts and nothing else, for which the bounds are known without a walk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmops.gateway.calls import Json, Operation, Usage
from llmops.gateway.ceilings import (
    STORED_TOKENS,
    TEMPLATE_TOKENS,
    asked_output,
    input_ceiling,
    output_ceiling,
)
from llmops.gateway.config import TargetConfig

BYTES_PER_TOKEN: Final = 3
"""For estimates: English has 4 to 5, code about 3. Rather too many tokens than too few."""

_PLAIN: Final = frozenset(
    (
        "model", "messages", "stream", "stream_options", "user", "safety_identifier", "temperature", "top_p", "seed",
        "stop", "max_tokens", "max_completion_tokens", "frequency_penalty", "presence_penalty", "logprobs",
        "top_logprobs", "reasoning_effort", "store", "service_tier",
    )
)  # fmt: skip
"""Fields of chat that add no tokens beyond their bytes."""

_FLAT: Final = frozenset(("role", "content", "name", "tool_call_id", "refusal", "reasoning_content"))

_IMAGE_ESTIMATE: Final = 1_000
_SEARCHED: Final = 100
_CHUNK_BYTES: Final = 500
"""A search ranks 100 documents; one of more than 500 tokens counts as several (https://cohere.com/pricing)."""


@dataclass(slots=True, init=False)
class Size:
    """What one request may use. `plain`: messages that are flat and hold texts, nothing to fetch, one answer."""

    operation: Operation
    body: Json
    raw_bytes: int
    plain: bool
    images: int
    input_estimate: int

    def __init__(
        self, operation: Operation, body: Json, raw_bytes: int, plain: bool, images: int, input_estimate: int
    ) -> None:
        self.operation = operation
        self.body = body
        self.raw_bytes = raw_bytes
        self.plain = plain
        self.images = images
        self.input_estimate = input_estimate

    def worst(self, target: TargetConfig, one: int | None = None) -> tuple[int, int]:
        """The most input and output tokens that the target can count. Raises Fault for a maximum that is none.

        Args:
            one: the most output tokens of one answer, where the request for the target was built with it.
        """
        if self.plain:
            if one is None:
                one = asked_output("chat", self.body, target.max_output_tokens)
            return self.raw_bytes + TEMPLATE_TOKENS, one
        most = input_ceiling(self.operation, self.body, self.raw_bytes, target.model)
        if most > STORED_TOKENS and target.context_tokens is not None:
            most = most % STORED_TOKENS + target.context_tokens
        return most, output_ceiling(self.operation, self.body, target)

    @property
    def searches(self) -> int:
        """The most searches that a rerank is charged for."""
        documents = self.body.get("documents") if self.operation == "rerank" else None
        if not isinstance(documents, list):
            return 0
        return -(-(len(documents) + self.raw_bytes // _CHUNK_BYTES) // _SEARCHED)

    def received(self, output_tokens: int) -> Usage:
        """What is booked where the provider's own count never came."""
        return Usage(self.input_estimate, output_tokens, estimated=True)


def measure(operation: Operation, body: Json, raw: bytes) -> Size:
    """The size of a request; `raw` is its body as it came."""
    length = len(raw)
    if operation == "chat" and _PLAIN.issuperset(body) and _texts_only(body.get("messages")):
        return Size(operation, body, length, True, 0, length // BYTES_PER_TOKEN)
    text, images = _weigh(body)
    estimate = text // BYTES_PER_TOKEN + images * _IMAGE_ESTIMATE
    return Size(operation, body, length, False, images, estimate)


def _texts_only(messages: object) -> bool:
    if type(messages) is not list:
        return False
    for message in messages:
        if type(message) is not dict or "content" not in message or not message.keys() <= _FLAT:
            return False
        for value in message.values():
            if type(value) is not str:
                return False
    return True


def _weigh(body: Json) -> tuple[int, int]:
    """Bytes of text and number of pictures, without walking down a call stack."""
    text = images = 0
    waiting: list[object] = [body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            text += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            if value.get("type") in ("image_url", "input_image", "image"):
                images += 1
            else:
                text += sum(map(len, value))
                waiting.extend(value.values())
        else:
            text += 1
    return text, images
