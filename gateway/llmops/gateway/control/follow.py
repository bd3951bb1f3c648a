"""Follows the aliases of registered routes: where one moved, the gateway reads its configuration again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.gateway.config import GatewayConfig
from llmops.gateway.registered import moved

if TYPE_CHECKING:
    from llmops.registry.assets import Registry

AGAIN_S = 60.0
"""A version that was asked for and is not in force was refused; it is asked for again after this."""


class Follower:
    """Looks when it is called. The registry is opened only where a route is registered."""

    def __init__(self, published: Callable[[], GatewayConfig], reload: Callable[[Path], bool]) -> None:
        self._published = published
        self._reload = reload
        self._registry: Registry | None = None
        self._asked: tuple[str, ...] | None = None
        self._asked_at = 0.0

    def __call__(self) -> None:
        """Have the configuration read again where a reference names another version than the one in force.

        Raises:
            LlmopsError: the registry does not answer, or knows a reference no more.
        """
        config = self._published()
        if not config.registered:
            return
        wanted = moved(config, self._open(config))
        if wanted is None or (wanted == self._asked and time.monotonic() < self._asked_at + AGAIN_S):
            return
        self._asked, self._asked_at = wanted, time.monotonic()
        self._reload(config.folder)

    def close(self) -> None:
        if self._registry is not None:
            self._registry.close()

    def _open(self, config: GatewayConfig) -> Registry:
        if self._registry is None:
            from llmops.core.keys import REGISTRY_SCOPE, acting_principal
            from llmops.registry.assets import Registry

            self._registry = Registry(config.state, principal=acting_principal(config.state, REGISTRY_SCOPE))
        return self._registry
