"""The online store in Redis, for several machines: one hash a feature table, a field a key.

A field holds `<microseconds>:<JSON>`; a script compares the moments, so that writers may come in any order. A table
that is published anew is built beside the old one and takes its place at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import orjson

from llmops.core.errors import ConfigError, UnavailableError
from llmops.core.features.online import Entry, Published
from llmops.core.ids import new_id

Found = TypeVar("Found")
_PREFIX = "llmops:features:"
_TIMEOUT_S = 2.0
_UNFINISHED_S = 3600
_ASKED_AT_ONCE = 1000
# KEYS: the hash. ARGV: field, moment, value, and so on.
_TAKE = """
for i = 1, #ARGV, 3 do
  local held = redis.call('HGET', KEYS[1], ARGV[i])
  if not held or tonumber(string.match(held, '^(-?%d+):')) <= tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ':' .. ARGV[i + 2])
  end
end
"""


class RedisOnline:
    """Implements `OnlineStore` on a Redis server."""

    def __init__(self, url: str) -> None:
        try:
            import redis
        except ModuleNotFoundError as error:
            raise ConfigError(
                "an online store in Redis needs its client", hint="pip install 'llmops[features]'"
            ) from error
        self._error = redis.RedisError
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        self._take = self._redis.register_script(_TAKE)

    def get(self, table: str, keys: Sequence[str]) -> dict[str, Entry]:
        found = {}
        for start in range(0, len(keys), _ASKED_AT_ONCE):
            some = keys[start : start + _ASKED_AT_ONCE]
            rows = self._asked(partial(self._redis.hmget, _PREFIX + table, some))
            for key, held in zip(some, rows, strict=True):
                if held is not None:
                    moment, _, row = held.partition(b":")
                    found[key] = Entry(key, int(moment), orjson.loads(row))
        return found

    def published(self, table: str) -> Published | None:
        held = self._asked(lambda: self._redis.get(f"{_PREFIX}{table}:published"))
        if held is None:
            return None
        version, files, newest_us, published_us = orjson.loads(held)
        return Published(version, tuple(files), newest_us, published_us)

    def publish(self, table: str, batches: Iterable[list[Entry]], done: Callable[[], Published], *, anew: bool) -> None:
        place = _PREFIX + table
        target = f"{place}:{new_id()}" if anew else place
        taken = 0
        for batch in batches:
            for start in range(0, len(batch), _ASKED_AT_ONCE):
                self._send(target, batch[start : start + _ASKED_AT_ONCE])
            if anew:  # what a publisher that dies leaves behind goes by itself
                self._asked(partial(self._redis.expire, target, _UNFINISHED_S))
            taken += len(batch)
        last = done()
        mark = orjson.dumps([last.version, last.files, last.newest_us, last.published_us])
        with self._redis.pipeline(transaction=True) as together:
            if anew:
                together.delete(place)
                if taken:
                    together.rename(target, place)
                    together.persist(place)
            together.set(f"{place}:published", mark)
            self._asked(together.execute)

    def close(self) -> None:
        self._redis.close()

    def _send(self, target: str, entries: list[Entry]) -> None:
        given: list[Any] = []
        for entry in entries:
            given += [entry.key, entry.event_us, orjson.dumps(entry.values)]
        self._asked(lambda: self._take(keys=[target], args=given))

    def _asked(self, question: Callable[[], Found]) -> Found:
        try:
            return question()
        except self._error as error:
            what = f"the online store does not answer: {type(error).__name__}"
            raise UnavailableError(what, where="state.online_url", hint="is Redis up?") from error
