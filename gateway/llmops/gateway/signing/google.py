"""Signs in at Google with a service account's key, ahead of need, and puts the access token on each request.

A token is good for an hour and is renewed five minutes before its end, by a call of the gateway's own HTTP client, so
that on the normal path no request waits for it. A sign-in that fails is tried again after a growing pause; requests get
a fault that says so once the token before has ended. Tokens and keys are never logged, nor part of a fault.

Source: https://developers.google.com/identity/protocols/oauth2/service-account#httprest
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from random import random

from llmops.core.errors import ConfigError
from llmops.core.ids import digest
from llmops.core.secret import resolve_document
from llmops.gateway.calls import Fault, Headers, UpstreamCall, UpstreamRequest
from llmops.gateway.config import ProviderConfig
from llmops.gateway.http.client import OriginPool
from llmops.gateway.http.timers import Timers
from llmops.gateway.signing.account import ServiceAccount, Token, read_token, token_request
from llmops.gateway.signing.pool import with_headers
from llmops.gateway.signing.watch import SecretWatch

AHEAD_S = 300.0
"""How long before its end a token is renewed; half of its time for one of less than ten minutes."""

WAIT_S = 10.0
_MOST_PAUSE_S = 60.0
_MOST_BYTES = 64 * 1024
_log = logging.getLogger(__name__)


class GoogleSigner:
    """The access token of one service account, kept fresh. A `Listener` to its own call for a new one."""

    def __init__(self, config: ProviderConfig, timers: Timers, loop: asyncio.AbstractEventLoop) -> None:
        assert config.credentials is not None
        self._reference = config.credentials
        self._config = config
        self._timers = timers
        self._loop = loop
        self._pool: OriginPool | None = None
        self._token: Token | None = None
        self._headers: Headers = ()
        self._fault: Fault | None = None
        self._failures = 0
        self._waiters: list[Callable[[], None]] = []
        self._call: UpstreamCall | None = None
        self._watch = SecretWatch([config.credentials], self._load, loop)
        try:
            self._load()
        except ConfigError:
            self._watch.close()
            raise

    def _load(self) -> None:
        document = resolve_document(self._reference)
        account = ServiceAccount.of(document, self._reference)
        pool = OriginPool(_token_endpoint(self._config, account), self._timers)
        self._forget()
        self._account, self._pool, self.fingerprint = account, pool, digest(document)
        self._next: asyncio.Handle = self._loop.call_soon(self._renew)

    # --- called by the pool ---

    def sign(self, request: UpstreamRequest, moment: float) -> UpstreamRequest | None:
        if self._token is not None and moment < self._token.good_until:
            return with_headers(request, self._headers)
        if self._fault is not None:
            raise self._fault
        return None

    def wait(self, wake: Callable[[], None]) -> None:
        self._waiters.append(wake)
        if self._call is None:  # its timer is late, or the machine slept
            self._next.cancel()
            self._next = self._loop.call_soon(self._renew)

    def close(self) -> None:
        self._watch.close()
        self._forget()
        self._token, self._fault = None, Fault("cancelled", "the gateway is stopping", 503)
        self._wake()

    def _forget(self) -> None:
        """Drop what belongs to a key, but for the token, which is good until its end."""
        if self._pool is None:
            return
        self._next.cancel()
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._pool.close()

    # --- one sign-in ---

    def _renew(self) -> None:
        if self._call is not None:
            return
        assert self._pool is not None
        self._status, self._body = 0, b""
        request = token_request(self._account, time.time())
        self._call = self._pool.call(request, self, first_byte_s=WAIT_S, idle_s=WAIT_S)

    def on_reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.on_head(status, headers)
        self.on_data(body)
        self.on_end()

    def on_head(self, status: int, headers: Headers) -> None:
        self._status = status

    def on_data(self, data: bytes) -> None:
        self._body = (self._body + data)[:_MOST_BYTES]

    def on_end(self) -> None:
        try:
            token = read_token(self._status, self._body, time.time())
        except Fault as fault:
            self.on_fault(fault)
            return
        self._call = None
        self._token, self._fault, self._failures = token, None, 0
        self._headers = ((b"authorization", b"Bearer " + token.value.encode("ascii")),)
        self._next = self._loop.call_later(max(token.lasts_s - AHEAD_S, token.lasts_s / 2), self._renew)
        self._wake()

    def on_fault(self, fault: Fault) -> None:
        self._call = None
        pause_s = min(2.0**self._failures, _MOST_PAUSE_S) * (0.5 + random() / 2)  # noqa: S311 - spreads retries
        self._failures += 1
        told = f"the gateway could not sign in at {self._account.host}: {fault.message}"
        kind = fault.kind if fault.kind in ("unauthenticated", "tls") else "overloaded"
        status = 502 if kind != "overloaded" else 503
        self._fault = Fault(kind, told, status, pause_s if kind == "overloaded" else None, "sign_in_failed")
        _log.error("%s; the next attempt is in %.1f s", told, pause_s)
        self._next = self._loop.call_later(pause_s, self._renew)
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for wake in waiters:
            self._loop.call_soon(wake)


def _token_endpoint(config: ProviderConfig, account: ServiceAccount) -> ProviderConfig:
    """Google's own address for tokens; checked against the same authorities as the provider."""
    return ProviderConfig(
        url=account.origin,
        tls=config.tls.model_copy(update={"server_name": None}),
        connect_s=config.connect_s,
        connections=1,
        idle_connection_s=1.0,
    )
