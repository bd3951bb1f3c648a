"""No more at once than there are places, first come first served, and a place is given back whatever happens."""

from __future__ import annotations

import threading

import pytest
from tests.support.serving import eventually

from llmops.rag.turns import Turns


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
            assert release.wait(60)
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads):
        thread.start()
        eventually(lambda come=number + 1: len(order) + len(turns._waiting) == come)
    assert len(order) == places
    release.set()
    for thread in threads:
        thread.join(60)
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
