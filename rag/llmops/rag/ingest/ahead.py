"""Runs a generator in a thread of its own, some items ahead of its reader: how the stages of a refresh overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

_WAIT_S = 0.1


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(source: Iterator[T], *, room: int, name: str) -> Iterator[T]:
    """Give the items of `source`, which runs in a thread.

    An error of the source is raised here, after the items before it. Closing this generator stops the source at its
    next item, closes it, and waits for its thread.
    """
    items: queue.Queue[T | _End] = queue.Queue(room)
    stop = threading.Event()

    def put(item: T | _End) -> None:
        while not stop.is_set():
            try:
                items.put(item, timeout=_WAIT_S)
            except queue.Full:
                continue
            return

    def run() -> None:
        error: BaseException | None = None
        try:
            for item in source:
                put(item)
                if stop.is_set():
                    break
        except BaseException as raised:  # noqa: BLE001 - raised again, in the reader's thread
            error = raised
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
            put(_End(error))

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        while True:
            item = items.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stop.set()
        thread.join()
