"""From a chain's thread to the event loop: a bounded passage for events, with backpressure and cancellation.

The chain is synchronous and may block; its reader is a socket that may be slow or go away. It knows neither HTTP nor
what the events mean.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from llmops.core.chain import CancelToken

log = logging.getLogger(__name__)

T = TypeVar("T")

ROOM: Final = 64
"""Events a chain may be ahead of its reader."""


class _End:
    """The chain is through; carries what it failed with."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Bridge(Generic[T]):
    """Runs an iterator in a worker thread; asynchronous iteration gives its items in order, then raises its error.

    A reader that stops pulling stops the chain within `room` items. `cancel.cancel()` wakes one that waits for room.
    """

    def __init__(self, produce: Callable[[], Iterator[T]], cancel: CancelToken, *, room: int = ROOM) -> None:
        self._produce = produce
        self._cancel = cancel
        self._room = threading.Semaphore(room)
        self._items: deque[T | _End] = deque()
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def start(self, ended: Callable[[], None]) -> None:
        """Begin in a thread of its own; `ended` is called there once the iterator is closed, cancelled or not.

        The thread is a daemon: a chain that ignores its cancellation can't keep the process alive.
        """
        self._cancel.on_cancel(self._room.release)
        threading.Thread(target=self._run, args=(ended,), name="answer", daemon=True).start()

    @property
    def ready(self) -> bool:
        """Whether the next item lies here already."""
        return bool(self._items)

    def __aiter__(self) -> Bridge[T]:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            self._arrived.clear()
            await self._arrived.wait()
        item = self._items.popleft()
        if isinstance(item, _End):
            self._items.append(item)
            raise StopAsyncIteration if item.error is None else item.error
        self._room.release()
        return item

    def _run(self, ended: Callable[[], None]) -> None:
        error: BaseException | None = None
        try:
            self._pump()
        except BaseException as failure:  # noqa: BLE001 - the thread's boundary: the reader raises it
            error = failure
        try:
            self._put(_End(error))
            ended()
        except RuntimeError:
            log.debug("the event loop closed before the chain ended", exc_info=True)

    def _pump(self) -> None:
        self._cancel.check()
        items = self._produce()
        try:
            for item in items:
                self._room.acquire()
                self._cancel.check()
                self._put(item)
        finally:
            if (close := getattr(items, "close", None)) is not None:
                close()

    def _put(self, item: T | _End) -> None:
        self._items.append(item)
        self._loop.call_soon_threadsafe(self._arrived.set)
