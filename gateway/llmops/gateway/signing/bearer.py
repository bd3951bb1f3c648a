"""Puts a given token on every request: a Bedrock API key, or an access token that somebody else keeps fresh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmops.core.ids import digest
from llmops.core.secret import resolve_secret
from llmops.gateway.calls import UpstreamRequest
from llmops.gateway.signing.pool import with_headers
from llmops.gateway.signing.watch import SecretWatch


class BearerSigner:
    """A token behind a reference; one in a file may be replaced at any time."""

    def __init__(self, reference: str, loop: asyncio.AbstractEventLoop) -> None:
        self._reference = reference
        self._watch = SecretWatch([reference], self._load, loop)
        self._load()

    def _load(self) -> None:
        token = resolve_secret(self._reference)
        self.fingerprint = digest(token)
        self._headers = ((b"authorization", b"Bearer " + token.encode("ascii")),)

    def sign(self, request: UpstreamRequest, moment: float) -> UpstreamRequest | None:
        return with_headers(request, self._headers)

    def wait(self, wake: Callable[[], None]) -> None:
        """Never needed: the token is there from the start."""

    def close(self) -> None:
        self._watch.close()
