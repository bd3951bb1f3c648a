"""No more at once than there are places, first come first served, and a place is given back whatever happens."""

from __future__ import annotations

import threading

import pytest

from llmops.rag.turns import Turns

WAIT_S = 20


def until_waiting(turns: Turns, count: int) -> None:
    pause = threading.Event()
    for _ in range(WAIT_S * 200):
        if len(turns._waiting) == count:
            return
        pause.wait(0.005)
    raise AssertionError("never came")


@pytest.mark.parametrize("places", [1, 2])
def test_places_are_never_overfilled_and_go_to_whoever_came_first(places: int) -> None:
    turns, inside, order = Turns(places), [0], list[int]()
    most, release, lock = [0], threading.Event(), threading.Lock()

    def work(number: int) -> None:
        with turns.taken():
            with lock:
                order.append(number)
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            assert release.wait(WAIT_S)
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads):
        thread.start()
        until_waiting(turns, max(0, number + 1 - places))
    release.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert most[0] == places
    assert sorted(order) == list(range(8))
    if places == 1:
        assert order == list(range(8))
    assert not turns._waiting
    assert turns._free == places


def test_a_failure_gives_the_place_back() -> None:
    turns = Turns(1)
    with pytest.raises(ValueError, match="broken"), turns.taken():
        raise ValueError("broken")
    with turns.taken():
        pass
