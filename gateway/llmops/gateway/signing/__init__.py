"""Proves to a provider who asks, where a constant header cannot: by a signature of the moment, or a token that changes.

`open_signed` gives the connections to such a provider. They are a `Pool` like any other, so neither the engine nor a
translator knows of signing: the moment comes in where a request goes out, and a retry is signed anew.
"""

from __future__ import annotations

import asyncio

from llmops.core.errors import ConfigError
from llmops.gateway.config import ProviderConfig
from llmops.gateway.http.client import OriginPool
from llmops.gateway.http.dial import Origin
from llmops.gateway.http.timers import Timers
from llmops.gateway.signing.bearer import BearerSigner
from llmops.gateway.signing.pool import SignedPool, Signer

__all__ = ["SIGNED", "SignedPool", "open_signed"]

SIGNED = frozenset({"bedrock", "vertex"})
"""Kinds of provider whose connections are opened here."""


def open_signed(config: ProviderConfig, timers: Timers) -> SignedPool:
    """The connections to a provider of a kind in `SIGNED`. Must be called in the loop that they work in.

    Raises:
        ConfigError: a secret is missing, or is not of the form that the provider gives.
    """
    pool = OriginPool(config, timers)
    try:
        return SignedPool(pool, _signer(config, timers), config.connect_s)
    except ConfigError:
        pool.close()
        raise


def _signer(config: ProviderConfig, timers: Timers) -> Signer:
    loop = asyncio.get_running_loop()
    if config.api_key is not None:
        return BearerSigner(config.api_key, loop)
    if config.kind == "bedrock":
        from llmops.gateway.signing.aws import AwsSigner

        return AwsSigner(config, Origin.of(config.base_url).authority.decode("ascii"), loop)
    from llmops.gateway.signing.google import GoogleSigner

    return GoogleSigner(config, timers, loop)
