"""The cache's part in one request: an answer given again, or waited for, or kept for the next.

Exists only for requests that may be cached. Knows the order of the cache's steps; what may be cached for whom is the
cache's matter.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import orjson

from llmops.gateway import sse
from llmops.gateway.cache import Lookup, RouteCache, Stored, replayed
from llmops.gateway.calls import Usage

if TYPE_CHECKING:
    from llmops.gateway.engine.exchange import Exchange

_JSON_HEADER = (b"content-type", b"application/json")
_HIT = (b"x-llmops-cache", b"hit")
_FREE = (b"x-llmops-cost-usd", b"0.000000000")
_NO_USAGE = Usage()


class Recall:
    """One request's dealings with the cache of its route."""

    __slots__ = ("_cache", "_exchange", "_leads", "_lookup")

    def __init__(self, cache: RouteCache, lookup: Lookup, exchange: Exchange) -> None:
        self._cache = cache
        self._lookup = lookup
        self._exchange = exchange
        self._leads = False

    def begin(self) -> bool:
        """Whether the cache answers, now or later; if not, the request goes on, and leads those like it."""
        stored = self._cache.get(self._lookup)
        if stored is not None:
            self._send(stored)
            return True
        if self._cache.asks_elsewhere:
            self._exchange.gate.spawn(self._fetch(), self._exchange.crash)
            return True
        return self._join()

    def keep(self, body: bytes, model: str | None, usage: Usage) -> None:
        """The request got a whole good answer."""
        if self._leads:
            self._leads = False
            self._cache.keep(self._lookup, Stored(body, usage, model, time.time()))

    def drop(self) -> None:
        """The request ends without an answer to keep, or without waiting for another's."""
        if self._leads:
            self._leads = False
            self._cache.fail(self._lookup)
        else:
            self._cache.leave(self._lookup, self._found)

    def _join(self) -> bool:
        if self._cache.join(self._lookup, self._found):
            return True
        self._leads = True
        return False

    async def _fetch(self) -> None:
        self._found(await self._cache.fetch(self._lookup))

    def _found(self, stored: Stored | None) -> None:
        """What the cache holds, or the identical call has answered that this one waited for; None: nothing."""
        if self._exchange.done:
            return
        try:
            if stored is not None:
                self._send(stored)
            elif not self._join():
                self._exchange.advance()
        except Exception:  # noqa: BLE001 - the boundary of a request: others wait for the same answer
            self._exchange.crash()

    def _send(self, stored: Stored) -> None:
        exchange = self._exchange
        exchange.own().cached = "hit"
        exchange.tab.settle(asked=False)
        exchange.first_at = time.monotonic()
        headers = ((b"x-request-id", exchange.request_id.encode()), exchange.route.header, _HIT, _FREE)
        events = None
        if exchange.streaming:
            events = replayed(exchange.operation, orjson.loads(stored.body), exchange.body)
        exchange.done = True
        try:
            if events is not None:
                exchange.responder.start(200, (*sse.HEADERS, *headers))
                exchange.responder.write(events)
                exchange.responder.end()
            else:
                exchange.responder.send(200, (_JSON_HEADER, *headers), stored.body)
            exchange.log_reply(200, None, (stored.body, stored.model, _NO_USAGE), None)
            exchange.gate.metrics.count("llmops_gateway_cache_hits_total", route=exchange.route.name)
        finally:
            exchange.close()
