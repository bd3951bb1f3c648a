"""A generator in a thread: order, errors, bounded room, and an end when its reader leaves."""

from __future__ import annotations

import threading
import time

import pytest

from llmops.rag.ingest.ahead import ahead


def running() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_items_come_in_order_from_another_thread():
    names = []

    def source():
        for n in range(100):
            names.append(threading.current_thread().name)
            yield n

    assert list(ahead(source(), room=3, name="ahead-order")) == list(range(100))
    assert set(names) == {"ahead-order"}
    assert "ahead-order" not in running()


def test_an_error_comes_after_the_items_before_it():
    def source():
        yield 1
        raise ValueError("broken source")

    items = ahead(source(), room=3, name="ahead-error")
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken source"):
        next(items)


def test_the_source_runs_at_most_its_room_ahead():
    made = []

    def source():
        for n in range(100):
            made.append(n)
            yield n

    items = ahead(source(), room=4, name="ahead-room")
    assert next(items) == 0
    deadline = time.monotonic() + 60
    while len(made) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 6  # the one taken, four waiting, one in hand
    items.close()


def test_a_reader_that_leaves_ends_the_source_and_what_feeds_it():
    ended = []

    def source():
        try:
            while True:
                yield 1
        finally:
            ended.append(threading.current_thread().name)

    inner = ahead(source(), room=2, name="ahead-inner")
    outer = ahead((item for item in inner), room=2, name="ahead-outer")
    assert next(outer) == 1
    outer.close()
    inner.close()
    assert ended == ["ahead-inner"]
    assert {"ahead-inner", "ahead-outer"}.isdisjoint(running())
