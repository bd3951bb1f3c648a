"""Connections whose requests are signed as they go out. Implements `calls.Pool` over another one.

Knows the moment, and who can sign; refuses to know how. A request that cannot be signed yet, because its first token is
still on its way, waits for it as it would for a connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from llmops.gateway.calls import Fault, Headers, Listener, UpstreamCall, UpstreamRequest
from llmops.gateway.http.client import OriginPool


class Signer(Protocol):
    """Proves who asks. `fingerprint` tells one secret from another, and does not tell the secret."""

    fingerprint: str

    def sign(self, request: UpstreamRequest, moment: float) -> UpstreamRequest | None:
        """The request with its proof; None where the means for it are still on their way. Raises Fault."""

    def wait(self, wake: Callable[[], None]) -> None:
        """Call `wake` once, in a later turn of the loop, when it is worth trying again."""

    def close(self) -> None: ...


def with_headers(request: UpstreamRequest, headers: Headers) -> UpstreamRequest:
    return UpstreamRequest(request.path, [*request.headers, *headers], request.body, request.method)


class SignedPool:
    """A pool, and who signs for it."""

    def __init__(self, pool: OriginPool, signer: Signer, patience_s: float) -> None:
        self.inner = pool
        self.patience_s = patience_s
        self.signer = signer
        self.loop = asyncio.get_running_loop()

    @property
    def fingerprint(self) -> str:
        return self.signer.fingerprint

    @property
    def connections(self) -> int:
        return self.inner.connections

    @property
    def waiting(self) -> int:
        return self.inner.waiting

    def call(self, request: UpstreamRequest, listener: Listener, *, first_byte_s: float, idle_s: float) -> UpstreamCall:
        try:
            signed = self.signer.sign(request, time.time())
        except Fault as fault:
            held = HeldCall(self, request, listener, (first_byte_s, idle_s))
            self.loop.call_soon(held.fail, fault)
            return held
        if signed is None:
            held = HeldCall(self, request, listener, (first_byte_s, idle_s))
            held.hold()
            return held
        return self.inner.call(signed, listener, first_byte_s=first_byte_s, idle_s=idle_s)

    def close(self) -> None:
        self.signer.close()
        self.inner.close()


class HeldCall:
    """A call that waits to be signed, then the call itself. Implements `calls.UpstreamCall`."""

    __slots__ = ("_call", "_listener", "_paused", "_pool", "_request", "_timer", "_times")

    def __init__(
        self, pool: SignedPool, request: UpstreamRequest, listener: Listener, times: tuple[float, float]
    ) -> None:
        self._pool = pool
        self._request = request
        self._listener: Listener | None = listener
        self._times = times
        self._call: UpstreamCall | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False

    @property
    def sent(self) -> bool:
        return self._call is not None and self._call.sent

    def hold(self) -> None:
        pool = self._pool
        late = Fault("connect_timeout", "the gateway could not sign in at the provider in time", 504)
        self._timer = pool.loop.call_later(pool.patience_s, self.fail, late)
        pool.signer.wait(self._wake)

    def cancel(self) -> None:
        self._listener = None
        self._stop_waiting()
        if self._call is not None:
            self._call.cancel()

    def pause(self) -> None:
        self._paused = True
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        self._paused = False
        if self._call is not None:
            self._call.resume()

    def fail(self, fault: Fault) -> None:
        self._stop_waiting()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.on_fault(fault)

    def _wake(self) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            signed = self._pool.signer.sign(self._request, time.time())
        except Fault as fault:
            self.fail(fault)
            return
        if signed is None:
            self._pool.signer.wait(self._wake)
            return
        self._stop_waiting()
        first_byte_s, idle_s = self._times
        self._call = self._pool.inner.call(signed, listener, first_byte_s=first_byte_s, idle_s=idle_s)
        if self._paused:
            self._call.pause()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
