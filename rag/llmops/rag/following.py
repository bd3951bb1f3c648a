"""A chain that pins no generation of its index: it answers from whichever generation is the index's champion.

Another generation is opened beside the one in use, by a thread of its own, and takes over whole once it can answer; the
old one is closed after its last answer. Knows aliases and chains; how a chain is put together is `packaging`'s.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from llmops.core.chain import Chain, ChainContext, Event, Message, PassageRef, PassageView
from llmops.core.errors import LlmopsError, NotFoundError
from llmops.core.identity import Principal
from llmops.core.state import StateConfig

POLL_S = 1.0
_log = logging.getLogger("llmops.rag.following")


class Place(Protocol):
    """Says which generation is wanted now."""

    def generation(self) -> str: ...
    def close(self) -> None: ...


class AliasedIndex:
    """The generation that is champion of a registered index."""

    def __init__(self, state: StateConfig, name: str) -> None:
        from llmops.core.keys import REGISTRY_SCOPE, acting_principal
        from llmops.registry.assets import Registry

        self._name = name
        self._registry = Registry(state, principal=acting_principal(state, REGISTRY_SCOPE))

    def generation(self) -> str:
        """Raises NotFoundError where the index has no champion."""
        return generation_of(self._registry.resolve(f"{self._name}@champion").source, self._name)

    def close(self) -> None:
        self._registry.close()


def generation_of(source: str, name: str) -> str:
    """The generation that a registered index version's place names.

    Raises:
        NotFoundError: it names none.
    """
    generation = source.partition("#")[2]
    if not generation:
        raise NotFoundError(f"the version of `{name}` names no generation", where=source)
    return generation


class FollowingChain:
    """Implements `core.chain.Chain`. Each answer comes from one generation, from its first event to its last."""

    def __init__(self, place: Place, open_at: Callable[[str], Chain], *, poll_s: float = POLL_S) -> None:
        self._place, self._open_at, self._poll_s = place, open_at, poll_s
        try:
            self._generation = place.generation()
            self._held = _Held(open_at(self._generation))
        except BaseException:
            place.close()
            raise
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow index", daemon=True)
        self._thread.start()

    @property
    def version_info(self) -> dict[str, Any]:
        return self._held.chain.version_info

    def stream(self, messages: Sequence[Message], context: ChainContext) -> Iterator[Event]:
        """See `Chain.stream`."""
        with self._current() as chain:
            yield from chain.stream(messages, context)

    def passage(self, ref: PassageRef, principal: Principal) -> PassageView:
        """See `Chain.passage`."""
        with self._current() as chain:
            return chain.passage(ref, principal)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._held.retire()
        self._place.close()

    def look(self) -> None:
        """Take over the wanted generation, where it is another one.

        Raises:
            LlmopsError: the registry does not answer, or the generation cannot be opened; the old one stays.
        """
        wanted = self._place.generation()
        if wanted == self._generation:
            return
        old, self._held = self._held, _Held(self._open_at(wanted))
        self._generation = wanted
        old.retire()
        _log.info("the index moved to generation %s", wanted)

    def _follow(self) -> None:
        told = ""
        while not self._stop.wait(self._poll_s):
            try:
                self.look()
                told = ""
            except LlmopsError as error:
                if error.what != told:  # once, not every second
                    _log.error("the chain stays at generation %s: %s", self._generation, error.what)
                told = error.what
            except Exception:  # noqa: BLE001 - the thread must live on: old answers are better than none
                _log.exception("the chain cannot follow its index; it stays at generation %s", self._generation)

    @contextmanager
    def _current(self) -> Iterator[Chain]:
        while not (held := self._held).taken():
            pass  # it was retired between the two; its successor is in place
        try:
            yield held.chain
        finally:
            held.given_back()


class _Held:
    """A chain, closed by whoever leaves last once it is retired."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._lock = threading.Lock()
        self._users = 1
        """One for being current."""

    def taken(self) -> bool:
        with self._lock:
            if not self._users:
                return False
            self._users += 1
            return True

    def given_back(self) -> None:
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self.chain.close()

    retire = given_back
