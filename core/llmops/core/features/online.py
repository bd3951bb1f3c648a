"""The online store: the newest row of each key of a feature table, found by key in well under a millisecond.

SQLite in the state folder by default, Redis by URL. Here is what both promise; how they keep it is theirs. A row never
gives way to an older one, whichever process writes it, so publishing may be repeated after a crash at any point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Protocol

import orjson

from llmops.core.errors import ConfigError
from llmops.core.state import StateConfig


@dataclass(frozen=True, slots=True)
class Entry:
    """One key's newest row: values are JSON's, times in microseconds, dates in days since 1970."""

    key: str
    event_us: int
    values: dict[str, Any]

    @property
    def event_time(self) -> datetime:
        return moment(self.event_us)


@dataclass(frozen=True, slots=True)
class Published:
    """Up to where a feature table is online: its version, the files that were read, the newest row's moment."""

    version: int
    files: tuple[str, ...]
    newest_us: int | None
    published_us: int


class OnlineStore(Protocol):
    """What serving and publishing ask of a store. Thread-safe."""

    def get(self, table: str, keys: Sequence[str]) -> dict[str, Entry]:
        """The newest rows of these keys; a key that has none is left out."""
        ...

    def published(self, table: str) -> Published | None:
        """Up to where a table is online, None where it never was."""
        ...

    def publish(self, table: str, batches: Iterable[list[Entry]], done: Callable[[], Published], *, anew: bool) -> None:
        """Take rows in, each where it is not older than its key's, then note that.

        Args:
            done: says what to note, once the batches are used up.
            anew: what is there of the table goes first; readers see the old rows until the new ones are whole.
        """
        ...

    def close(self) -> None: ...


def open_online(state: StateConfig) -> OnlineStore:
    """The online store that the state names.

    Raises:
        ConfigError: `state.online_url` is no address of one.
        UnavailableError: Redis does not answer.
    """
    from llmops.core.secret import resolve_secret

    url = state.online_url
    if url is None:
        from llmops.core.features.online_sqlite import SqliteOnline

        return SqliteOnline(state.root / "features" / "online.db")
    if url.startswith(("env:", "file:")):
        url = resolve_secret(url)
    elif "@" in url:
        hint = "put the whole address into a variable and write env:NAME"
        raise ConfigError("`state.online_url` holds a password", hint=hint)
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigError("`state.online_url` is not an address of Redis", hint="write redis://HOST:6379/0")
    from llmops.core.features.online_redis import RedisOnline

    return RedisOnline(url)


def key_text(values: Iterable[Any]) -> str:
    """One text a key, whichever way its values came."""
    return orjson.dumps([value.isoformat() if isinstance(value, date) else value for value in values]).decode()


def moment(microseconds: int) -> datetime:
    seconds, rest = divmod(microseconds, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
