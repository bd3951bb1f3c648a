"""How much a request can use at most, before it is sent, and about how much it will.

The bounds are `ceilings`' matter; this adds the estimate that rules and balancing go by, and that stands in for usage
which never arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmops.gateway.calls import Json, Operation, Usage
from llmops.gateway.ceilings import STORED_TOKENS, input_ceiling, output_ceiling
from llmops.gateway.config import TargetConfig

BYTES_PER_TOKEN: Final = 3
"""For estimates: English has 4 to 5, code about 3. Rather too many tokens than too few."""

_IMAGE_ESTIMATE: Final = 1_000
_IMAGE_MARKS: Final = (b'"image_url"', b'"input_image"', b'"image"')


@dataclass(slots=True)
class Size:
    """What one request may use."""

    operation: Operation
    body: Json
    raw_bytes: int
    images: bool
    input_estimate: int

    def worst(self, target: TargetConfig) -> tuple[int, int]:
        """The most input and output tokens that the target can count."""
        most = input_ceiling(self.operation, self.body, self.raw_bytes, target.model)
        if most > STORED_TOKENS and target.context_tokens is not None:
            most = most % STORED_TOKENS + target.context_tokens
        return most, output_ceiling(self.operation, self.body, target)

    def received(self, output_tokens: int) -> Usage:
        """What is booked where the provider's own count never came."""
        return Usage(self.input_estimate, output_tokens, estimated=True)


def measure(operation: Operation, body: Json, raw: bytes) -> Size:
    """The size of a request; `raw` is its body as it came."""
    estimate = len(raw) // BYTES_PER_TOKEN
    images = False
    if any(mark in raw for mark in _IMAGE_MARKS):
        text, pictures = _weigh(body)
        images = pictures > 0
        estimate = text // BYTES_PER_TOKEN + pictures * _IMAGE_ESTIMATE
    return Size(operation, body, len(raw), images, estimate)


def _weigh(body: Json) -> tuple[int, int]:
    """Bytes of text and number of pictures, without walking down a call stack."""
    text = pictures = 0
    waiting: list[object] = [body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            text += len(value)
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            if value.get("type") in ("image_url", "input_image", "image"):
                pictures += 1
            else:
                waiting.extend(value.values())
    return text, pictures
