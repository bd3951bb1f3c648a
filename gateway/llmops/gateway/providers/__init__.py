"""Which module speaks which provider's API. Each is loaded when a configuration first names it, not before.

Knows names only; the wire formats are the modules' own.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from llmops.gateway.calls import Provider
from llmops.gateway.config import ProviderConfig, ProviderKind

_CLASSES: dict[ProviderKind, tuple[str, str]] = {
    "openai": ("openai", "OpenAI"),
    "azure": ("azure", "Azure"),
    "mistral": ("mistral", "Mistral"),
    "anthropic": ("anthropic", "Anthropic"),
    "gemini": ("gemini", "Gemini"),
    "cohere": ("cohere", "Cohere"),
    "bedrock": ("bedrock", "Bedrock"),
    "vertex": ("vertex", "Vertex"),
}


def open_provider(config: ProviderConfig, api_key: str | None) -> Provider:
    """The one instance that serves all requests to this provider. `api_key` is the secret itself, already resolved.

    Raises:
        ConfigError: the configuration asks what this kind of provider cannot do, or a header's reference leads nowhere.
    """
    module, name = _CLASSES[config.kind]
    kind = getattr(import_module(f"{__name__}.{module}"), name)
    return cast("Provider", kind(config, api_key))
