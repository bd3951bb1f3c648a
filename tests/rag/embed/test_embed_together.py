"""Who asks alone goes alone; who come together are computed together, each gets their own, and only culprits suffer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llmops.rag.embed.together import Together

WAIT_S = 60


class Counting:
    """Vectors that are the texts' numbers; the first call lasts until `release`, and every call is remembered."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.running = threading.Event()
        self.release = threading.Event()
        self.at_once = 0

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.at_once += 1
        assert self.at_once == 1
        self.calls.append(list(texts))
        self.running.set()
        assert self.release.wait(WAIT_S)
        self.at_once -= 1
        if "bad" in texts:
            raise ValueError("bad")
        return np.array([[int(text)] for text in texts], dtype=np.float32).reshape(len(texts), 1)


def queued(together: Together, wishes: int) -> Callable[[], bool]:
    return lambda: len(together._waiting) == wishes


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(WAIT_S * 200):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("never came")


def ask(compute: Counting, wishes: list[list[str]], *, most: int) -> list[list[float] | str]:
    """The first wish starts alone; the others come one by one while it is computed."""
    together = Together(compute, most=most)

    def one(texts: list[str]) -> list[float] | str:
        try:
            return [float(value) for value in together(texts)[:, 0]]
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(len(wishes)) as pool:
        futures = [pool.submit(one, wishes[0])]
        assert compute.running.wait(WAIT_S)
        for place, wish in enumerate(wishes[1:], 1):
            futures.append(pool.submit(one, wish))
            until(queued(together, place))
        compute.release.set()
        found = [future.result(WAIT_S) for future in futures]
    assert not together._waiting
    assert not together._busy
    return found


def test_what_comes_meanwhile_goes_together_in_order_and_to_whom_it_belongs() -> None:
    compute = Counting()
    assert ask(compute, [["1"], ["2", "3"], [], ["4"], ["5"]], most=4) == [[1], [2, 3], [], [4], [5]]
    assert compute.calls == [["1"], ["2", "3", "4", "5"]]


def test_a_batch_has_so_many_texts_and_a_larger_wish_goes_by_itself() -> None:
    compute = Counting()
    many = [str(n) for n in range(10)]
    assert ask(compute, [["1"], ["2"], ["3"], many, ["4"]], most=2) == [[1], [2], [3], list(range(10)), [4]]
    assert compute.calls == [["1"], ["2", "3"], many, ["4"]]


def test_a_text_that_fails_fails_only_who_asked_for_it() -> None:
    compute = Counting()
    assert ask(compute, [["1"], ["2"], ["bad"], ["3"]], most=8) == [[1], [2], "bad", [3]]
    assert compute.calls == [["1"], ["2", "bad", "3"], ["2"], ["bad"], ["3"]]


def test_an_interrupted_leader_leaves_nobody_waiting() -> None:
    started, go = threading.Event(), threading.Event()

    def compute(texts: Sequence[str]) -> np.ndarray:
        if texts[0] == "stop":
            started.set()
            assert go.wait(WAIT_S)
            raise KeyboardInterrupt
        return np.zeros((len(texts), 1), dtype=np.float32)

    together = Together(compute, most=8)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(together, ["stop"])
        assert started.wait(WAIT_S)
        second = pool.submit(together, ["after"])
        until(queued(together, 1))
        go.set()
        with pytest.raises(KeyboardInterrupt):
            first.result(WAIT_S)
        assert second.result(WAIT_S).shape == (1, 1)


def test_many_threads_get_what_they_asked_for() -> None:
    compute = Counting()
    compute.release.set()
    together = Together(compute, most=16)
    wishes = [[str(n), str(n + 1)] for n in range(400)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(together, wishes))
    assert [vectors[:, 0].tolist() for vectors in found] == [[n, n + 1] for n in range(400)]
