"""Endpoints: named doors that follow an alias, and change what they serve without dropping a request.

A new version is loaded and warmed beside the one in service, then swapped in; the old one closes after its last answer.
A version that fails to load or to warm leaves the one in service in place; where the alias was taken away on purpose,
nobody is in service. It knows no HTTP and no requester.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from llmops.core.chain import Cancelled, Chain, ChainContext, Retrieval, Step
from llmops.core.errors import LlmopsError, NotFoundError, UnavailableError, did_you_mean
from llmops.core.names import Ref
from llmops.core.tracing import span
from llmops.serving.config import EndpointConfig

log = logging.getLogger(__name__)

WARM_UP_QUESTION = "What is this about?"
NO_CHAMPION = "no_champion"
"""The code of the error by which a source says that an alias was taken away, or is nobody's yet."""
VACANT_HINT = "its operators took the version out of service; another one is served as soon as it is champion"
RETRY_FIRST_S = 2.0
RETRY_MOST_S = 60.0


class VersionSource(Protocol):
    """Where versions come from: the registry, or anything that resolves references and loads chains."""

    def resolve(self, ref: Ref) -> Ref:
        """The version a reference names now, by number.

        Raises:
            NotFoundError: no such asset, version or alias.
        """
        ...

    def load(self, ref: Ref) -> Chain: ...


@dataclass
class Loaded:
    """One version in memory. It closes when it has retired and nobody uses it any more."""

    chain: Chain
    ref: Ref
    alias: str | None
    since: float = field(default_factory=time.time)
    _users: int = 0
    _retired: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def acquire(self) -> bool:
        """Join the users; False where the version has retired already."""
        with self._lock:
            if not self._retired:
                self._users += 1
            return not self._retired

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._retired and self._users == 0
        if last:
            self.chain.close()

    def retire(self) -> None:
        with self._lock:
            already, self._retired = self._retired, True
            idle = self._users == 0
        if idle and not already:
            self.chain.close()


class Endpoint:
    """One door. `refresh` is called by one thread, `acquire` by any."""

    def __init__(self, config: EndpointConfig, source: VersionSource) -> None:
        self.config = config
        self.name = config.name
        self.problem: str | None = None
        self.swaps = 0
        self._source = source
        self._loaded: Loaded | None = None
        self._failed: Ref | None = None
        self._retry_at = 0.0
        self._retry_s = RETRY_FIRST_S
        self._vacant: NotFoundError | None = None

    @property
    def loaded(self) -> Loaded | None:
        return self._loaded

    def acquire(self) -> Loaded:
        """The version in service, kept open until `release`.

        Raises:
            UnavailableError: the first version is still loading, or nobody is champion any more.
        """
        while (loaded := self._loaded) is not None:
            if loaded.acquire():
                return loaded
        if self._vacant is not None:
            what = f"endpoint `{self.name}` serves nothing: {self._vacant.what}"
            raise UnavailableError(what, hint=VACANT_HINT, code=self._vacant.error_code)
        raise UnavailableError(f"endpoint `{self.name}` is still loading", hint="try again in a moment")

    @contextmanager
    def use(self) -> Iterator[Loaded]:
        loaded = self.acquire()
        try:
            yield loaded
        finally:
            loaded.release()

    def open(self) -> None:
        """Load the first version.

        Raises:
            LlmopsError: it does not exist or does not load.
        """
        self._swap(self._source.resolve(self.config.ref))

    def refresh(self) -> bool:
        """Follow the alias; True where another version came into service. `problem` keeps a failure."""
        try:
            target = self._source.resolve(self.config.ref)
            if self._loaded is not None and target == self._loaded.ref:
                self.problem = self._failed = None
                return False
            if target == self._failed and time.monotonic() < self._retry_at:
                return False
            self._swap(target)
        except NotFoundError as error:
            if error.error_code == NO_CHAMPION:
                self._vacate(error)
            else:
                self._note_failure(error)
            return False
        except Exception as error:  # noqa: BLE001 - the boundary of the reload job: the version in service stays
            self._note_failure(error)
            return False
        return True

    def _vacate(self, why: NotFoundError) -> None:
        """Take the version out of service whose alias was taken away; running answers end."""
        if self._vacant is None:
            log.warning("endpoint %s serves nothing from now on: %s", self.name, why.what)
        self._vacant, self.problem, self._failed = why, why.what, None
        self.close()

    def close(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.retire()

    def _swap(self, target: Ref) -> None:
        self._failed = target
        chain = self._source.load(target)
        try:
            with span("warm_up", {"llmops.asset": str(target.name), "llmops.version": target.version}):
                warm(chain)
        except BaseException:
            chain.close()
            raise
        before, self._loaded = self._loaded, Loaded(chain, target, self.config.ref.alias)
        self.problem = self._failed = self._vacant = None
        self._retry_s = RETRY_FIRST_S
        self.swaps += 1
        log.info("endpoint %s serves %s", self.name, target)
        if before is not None:
            before.retire()

    def _note_failure(self, error: Exception) -> None:
        problem = error.what if isinstance(error, LlmopsError) else f"{type(error).__name__}: {error}"
        serving = self._loaded.ref if self._loaded else "nothing"
        self.problem = f"{self._failed or self.config.asset}: {problem}"
        self._retry_at = time.monotonic() + self._retry_s
        log.error(
            "endpoint %s cannot follow %s (%s); it goes on serving %s, next try in %.0f s",
            self.name, self.config.asset, problem, serving, self._retry_s, exc_info=error,
        )  # fmt: skip
        self._retry_s = min(RETRY_MOST_S, self._retry_s * 2)


def warm(chain: Chain) -> None:
    """Make the chain find passages once: models and index are then known to work. Its LLM is not asked."""
    context = ChainContext()
    events = chain.stream([{"role": "user", "content": WARM_UP_QUESTION}], context)
    try:
        for event in events:
            if isinstance(event, Step | Retrieval):
                break
    finally:
        context.cancel.cancel()
        if (close := getattr(events, "close", None)) is not None:
            try:
                close()
            except Cancelled:
                log.debug("the warm-up ended by its cancellation")


class Endpoints:
    """All doors of one server, and the thread that follows their aliases."""

    def __init__(self, configs: tuple[EndpointConfig, ...], source: VersionSource, *, poll_s: float) -> None:
        self._all = {config.name: Endpoint(config, source) for config in configs}
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._all.values())

    def get(self, name: str) -> Endpoint:
        """The door of this name.

        Raises:
            NotFoundError: there is none.
        """
        if name not in self._all:
            hint = did_you_mean(name, self._all) or f"endpoints here: {', '.join(self._all)}"
            raise NotFoundError(
                f"no endpoint is named `{name[:100]}`", code="model_not_found", where="model", hint=hint
            )
        return self._all[name]

    def __enter__(self) -> Endpoints:
        """Load every first version, then follow the aliases.

        Raises:
            LlmopsError: a first version does not exist or does not load.
        """
        try:
            for endpoint in self:
                endpoint.open()
        except BaseException:
            self.__exit__()
            raise
        self._thread = threading.Thread(target=self._follow, name="endpoints", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        for endpoint in self:
            endpoint.close()

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_s):
            for endpoint in self:
                endpoint.refresh()
