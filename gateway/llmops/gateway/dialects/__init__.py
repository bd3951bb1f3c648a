"""Which module turns which caller's API into canonical chat, and back. Loaded when first needed.

Knows names only; each dialect's module knows one API.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from llmops.gateway.calls import Dialect, Operation

_CLASSES: dict[Operation, tuple[str, str]] = {
    "chat": ("chat", "Chat"),
    "completions": ("completions", "Completions"),
    "responses": ("responses", "Responses"),
    "messages": ("messages", "Messages"),
    "embeddings": ("embeddings", "Embeddings"),
    "rerank": ("rerank", "Rerank"),
}


def open_dialect(operation: Operation) -> Dialect:
    """The dialect of one operation: without state, so one instance serves all requests."""
    module, name = _CLASSES[operation]
    return cast("Dialect", getattr(import_module(f"{__name__}.{module}"), name)())
