"""A route's cache as the door uses it: look in memory at once, elsewhere without waiting, keep what was good.

The order of a request: `lookup` (may it be cached, and under which key), `get` (memory, at once), `fetch` (shared store
and similar questions, asynchronous; only if `asks_elsewhere`), `join` (wait for an identical call under way), and after
the call `keep` or `fail`, exactly one of them for whoever was told to lead. Only whole, unblocked 200 replies are kept:
that is the caller's duty, who alone knows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llmops.core.errors import LlmopsError
from llmops.core.secret import resolve_secret
from llmops.gateway.cache.exact import Memory, Stored
from llmops.gateway.cache.flights import Flights, Waiter
from llmops.gateway.cache.keys import Wishes, cacheable, key_of, read_wishes, scope_of
from llmops.gateway.cache.semantic import Embed, Questions, question_of
from llmops.gateway.cache.shared import RedisShared, Shared, SqliteShared
from llmops.gateway.calls import Fault, Json, KeyPolicy, Operation
from llmops.gateway.config import CacheConfig, StoreConfig

_log = logging.getLogger(__name__)
_MOST_TASKS = 1000


@dataclass(slots=True)
class Lookup:
    """What is asked of the cache for one request."""

    key: bytes
    wishes: Wishes
    setting: bytes | None = None
    question: str = ""
    embedding: tuple[float, ...] | None = None


@dataclass(slots=True)
class CacheCounters:
    """What happened; read by metrics."""

    hits: int = 0
    similar: int = 0
    misses: int = 0
    kept: int = 0
    waited: int = 0


@dataclass(slots=True)
class RouteCache:
    """The cache of one route in one worker."""

    config: CacheConfig
    route: str
    version: str
    memory: Memory
    shared: Shared | None = None
    questions: Questions | None = None
    embed: Embed | None = None
    flights: Flights = field(default_factory=Flights)
    counters: CacheCounters = field(default_factory=CacheCounters)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def asks_elsewhere(self) -> bool:
        """Whether `fetch` can find what `get` does not."""
        return self.shared is not None or self.questions is not None

    def lookup(
        self, operation: Operation, body: Json, policy: KeyPolicy | None, cache_control: bytes | None = None
    ) -> Lookup | None:
        """What to ask for; None where the request is not to be cached at all."""
        wishes = read_wishes(cache_control)
        if not (wishes.read or wishes.write) or not cacheable(operation, body, self.config.sampled):
            return None
        parts = (self.route.encode(), self.version.encode(), operation.encode(), scope_of(self.config.per, policy))
        key = key_of(parts, body)
        if key is None:
            return None
        lookup = Lookup(key, wishes)
        if self.questions is not None and (asked := question_of(operation, body)):
            lookup.question = asked[0]
            lookup.setting = key_of((*parts, b"question"), asked[1])
        return lookup

    def get(self, lookup: Lookup) -> Stored | None:
        """From memory, at once."""
        if not lookup.wishes.read:
            return None
        stored = self.memory.get(lookup.key, lookup.wishes.max_age_s)
        if stored is not None:
            self.counters.hits += 1
        elif not self.asks_elsewhere:
            self.counters.misses += 1
        return stored

    async def fetch(self, lookup: Lookup) -> Stored | None:
        """From the shared store, or of a similar question. Never raises for a store or an embedding that fails."""
        stored = await self.shared.get(lookup.key) if self.shared is not None and lookup.wishes.read else None
        if stored is not None and _young(stored, lookup.wishes):
            self.memory.put(lookup.key, stored)
            self.counters.hits += 1
            return stored
        stored = await self._similar(lookup) if lookup.setting is not None else None
        if stored is not None:
            self.counters.similar += 1
            return stored
        self.counters.misses += 1
        return None

    def join(self, lookup: Lookup, waiter: Waiter) -> bool:
        """Whether an identical call is under way, whose end `waiter` will hear of; if not, the caller leads."""
        if not lookup.wishes.read or not self.flights.join(lookup.key, waiter):
            return False
        self.counters.waited += 1
        return True

    def leave(self, lookup: Lookup, waiter: Waiter) -> None:
        """The waiter needs no answer any more."""
        self.flights.leave(lookup.key, waiter)

    def keep(self, lookup: Lookup, stored: Stored) -> None:
        """A whole good reply: remember it, and give it to whoever waits."""
        if lookup.wishes.write:
            self.counters.kept += 1
            self.memory.put(lookup.key, stored)
            if self.questions is not None and lookup.setting is not None and lookup.embedding is not None:
                self.questions.add(lookup.setting, lookup.question, lookup.embedding, stored)
            if self.shared is not None and len(self._tasks) < _MOST_TASKS:
                task = asyncio.get_running_loop().create_task(self.shared.put(lookup.key, stored))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self.flights.land(lookup.key, stored)

    def fail(self, lookup: Lookup) -> None:
        """The call gave nothing to be kept; of those who wait, one asks anew."""
        self.flights.land(lookup.key, None)

    def clear(self) -> None:
        """Forget this worker's answers."""
        self.memory.clear()
        if self.questions is not None:
            self.questions.clear()

    async def close(self) -> None:
        """Finish what is being written."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
        if self.shared is not None:
            await self.shared.close()

    async def _similar(self, lookup: Lookup) -> Stored | None:
        assert self.questions is not None
        assert self.embed is not None
        assert lookup.setting is not None
        try:
            lookup.embedding = tuple(await self.embed(lookup.question))
        except (LlmopsError, Fault) as error:
            _log.warning("the question of route %s could not be embedded: %s", self.route, type(error).__name__)
            return None
        if not lookup.wishes.read:
            return None
        self.questions.forget_older(time.time() - self.config.ttl_s)
        stored = self.questions.find(lookup.setting, lookup.question, lookup.embedding)
        return stored if stored is not None and _young(stored, lookup.wishes) else None


def _young(stored: Stored, wishes: Wishes) -> bool:
    return wishes.max_age_s is None or stored.age_s(time.time()) <= wishes.max_age_s


def open_cache(
    config: CacheConfig, route: tuple[str, str], store: StoreConfig, folder: Path, embed: Callable[[str], Embed]
) -> RouteCache:
    """The cache of a route (name, version). `embed` gives the embedding callable of the route that it names.

    Raises:
        ConfigError: the semantic cache's numpy is missing, or a secret cannot be resolved.
    """
    semantic = config.semantic
    half = config.max_bytes // 2
    return RouteCache(
        config,
        *route,
        memory=Memory(half if semantic else config.max_bytes, config.ttl_s),
        shared=_shared(config, store, folder) if config.shared else None,
        questions=Questions(semantic.threshold, half) if semantic else None,
        embed=embed(semantic.embedding_route) if semantic else None,
    )


def _shared(config: CacheConfig, store: StoreConfig, folder: Path) -> Shared:
    if store.redis_url is None:
        return SqliteShared(folder / "cache.db", config.shared_bytes, config.ttl_s)
    url = store.redis_url
    return RedisShared(url if "://" in url else resolve_secret(url), store.prefix, config.ttl_s)
