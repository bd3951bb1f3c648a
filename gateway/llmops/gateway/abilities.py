"""What only some providers can do, told by the methods they have: asked when a plan is built, or a rare call comes.

Apart from the other words of the gateway, since such a question needs Python's own protocol classes.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from llmops.gateway.calls import Json, Provider, UpstreamRequest
from llmops.gateway.config import TargetConfig


@runtime_checkable
class TokenCounter(Protocol):
    """A provider that tells how many tokens a Messages request has."""

    def count_tokens(self, body: Json, target: TargetConfig) -> UpstreamRequest: ...


@runtime_checkable
class Publisher(Protocol):
    """A provider whose models speak different formats, such as a cloud that sells the models of several makers."""

    def of_model(self, model: str) -> Provider:
        """Who speaks for one model; the same object for every model of a kind. Raises ConfigError for one unknown."""
