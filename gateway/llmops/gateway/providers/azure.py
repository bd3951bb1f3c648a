"""Speaks Azure OpenAI: OpenAI's bodies at Azure's addresses, with Azure's key header.

Two kinds of address: the newer `https://NAME.openai.azure.com/openai/v1`, where the deployment is the model, and the
resource alone (`https://NAME.openai.azure.com`), where each deployment has its path and `api-version` is a must.

Source: https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle,
https://learn.microsoft.com/azure/ai-foundry/openai/reference
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from llmops.core.errors import ConfigError
from llmops.gateway.calls import Headers, Json, Operation
from llmops.gateway.config import ProviderConfig, TargetConfig
from llmops.gateway.providers.openai import OpenAI
from llmops.gateway.providers.openai_request import PATHS

_STABLE: Final = "2024-10-21"
_NEW_LIMIT: Final = "2024-09-01"
"""First api-version that knows `max_completion_tokens`; the date sorts as text."""


class Azure(OpenAI):
    """One Azure resource. A target's `model` is the name of a deployment."""

    def __init__(self, config: ProviderConfig, api_key: str | None) -> None:
        base = urlsplit(config.base_url).path.rstrip("/")
        self._is_v1 = base.endswith("/v1")
        self._version = config.api_version or (None if self._is_v1 else _STABLE)
        super().__init__(config, api_key)
        if not self._is_v1:
            self._base = base if base.endswith("/openai") else f"{base}/openai"
            if unknown := sorted(self.native - {"chat", "completions", "embeddings"}):
                raise ConfigError(
                    f"an Azure resource by api-version does not offer `{unknown[0]}`",
                    hint="give the newer address, which ends in /openai/v1",
                )

    def _default_operations(self) -> tuple[Operation, ...]:
        return ("chat", "completions", "embeddings")

    def _authorization(self, config: ProviderConfig) -> Headers:
        """A key of the resource, or a token of Entra ID, which is a JWT."""
        if not self._secret:
            return []
        if self._secret.startswith("eyJ") and self._secret.count(".") == 2:
            return [(b"authorization", b"Bearer " + self._secret.encode("ascii"))]
        return [(b"api-key", self._secret.encode("ascii"))]

    def _path(self, operation: Operation, target: TargetConfig) -> str:
        query = "?" + urlencode({"api-version": self._version}) if self._version else ""
        deployment = "" if self._is_v1 else f"/deployments/{quote(target.model, safe='')}"
        return f"{self._base}{deployment}{PATHS[operation]}{query}"

    def _limit_name(self, operation: Operation) -> str:
        is_new = self._is_v1 or (self._version or _STABLE) >= _NEW_LIMIT
        return "max_completion_tokens" if operation == "chat" and is_new else "max_tokens"

    def _adapted(self, operation: Operation, body: Json, target: TargetConfig, limit: int | None) -> Json:
        return self._for_openai(super()._adapted(operation, body, target, limit), target)
