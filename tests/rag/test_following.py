"""A chain that follows its index: it takes over whole, keeps answers under way, and stays where it is on trouble."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.support.chain import SmallChain, Text
from tests.support.serving import eventually

from llmops.core.chain import ChainContext, Delta, Message
from llmops.core.errors import NotFoundError
from llmops.rag.following import FollowingChain, generation_of

QUESTION: list[Message] = [{"role": "user", "content": "Which generation answers?"}]


class Shelf:
    """The wanted generation, moved by hand, and every chain that was opened."""

    def __init__(self) -> None:
        self.wanted, self.closed = "one", False
        self.opened: dict[str, SmallChain] = {}
        self.hold: Callable[[], None] = lambda: None

    def generation(self) -> str:
        if self.wanted == "nobody":
            raise NotFoundError("there is no champion")
        return self.wanted

    def close(self) -> None:
        self.closed = True

    def open_at(self, generation: str) -> SmallChain:
        if generation == "broken":
            raise NotFoundError("there is no such generation")
        text = Text("g.md", "G", f"The generation that answers is {generation}.")
        self.opened[generation] = SmallChain((text,), before_piece=lambda number, context: self.hold())
        return self.opened[generation]


@contextmanager
def following(shelf: Shelf, poll_s: float = 3600) -> Iterator[FollowingChain]:
    chain = FollowingChain(shelf, shelf.open_at, poll_s=poll_s)
    try:
        yield chain
    finally:
        chain.close()


def said(chain: FollowingChain) -> str:
    return "".join(event.text for event in chain.stream(QUESTION, ChainContext()) if isinstance(event, Delta))


def test_it_takes_over_and_closes_the_old_one() -> None:
    shelf = Shelf()
    with following(shelf, poll_s=0.01) as chain:
        assert "one" in said(chain)
        shelf.wanted = "two"
        eventually(lambda: "two" in said(chain))
        assert shelf.opened["one"].closed.wait(60)
        assert not shelf.opened["two"].closed.is_set()
    assert shelf.opened["two"].closed.is_set()
    assert shelf.closed


def test_an_answer_under_way_keeps_its_generation() -> None:
    shelf, begun, go_on = Shelf(), threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go_on.wait(60)

    shelf.hold = hold
    with following(shelf) as chain:
        told: list[str] = []
        reader = threading.Thread(target=lambda: told.append(said(chain)))
        reader.start()
        assert begun.wait(60)
        shelf.wanted = "two"
        chain.look()
        assert not shelf.opened["one"].closed.is_set()
        go_on.set()
        reader.join(60)
        assert "one" in told[0]
        assert shelf.opened["one"].closed.is_set()
        assert "two" in said(chain)


@pytest.mark.parametrize("wanted", ["nobody", "broken"])
def test_on_trouble_it_stays_where_it_is(wanted: str) -> None:
    shelf = Shelf()
    with following(shelf) as chain:
        shelf.wanted = wanted
        with pytest.raises(NotFoundError):
            chain.look()
        assert "one" in said(chain)
        shelf.wanted = "two"
        chain.look()
        assert "two" in said(chain)


def test_it_follows_on_after_a_defect() -> None:
    shelf, broke = Shelf(), threading.Event()
    whole = shelf.generation

    def broken() -> str:
        broke.set()
        raise ZeroDivisionError

    with following(shelf, poll_s=0.01) as chain:
        shelf.generation = broken  # type: ignore[method-assign]
        assert broke.wait(60)
        shelf.generation = whole  # type: ignore[method-assign]
        shelf.wanted = "two"
        eventually(lambda: "two" in said(chain))


def test_many_readers_while_it_moves() -> None:
    shelf, trouble = Shelf(), []

    def read(chain: FollowingChain) -> None:
        for _ in range(100):
            text = said(chain)
            if "The generation that answers" not in text:
                trouble.append(text)

    with following(shelf) as chain:
        readers = [threading.Thread(target=read, args=(chain,)) for _ in range(4)]
        for reader in readers:
            reader.start()
        for turn in range(50):
            shelf.wanted = f"number {turn}"
            chain.look()
        for reader in readers:
            reader.join(60)
        open_now = [one for one, small in shelf.opened.items() if not small.closed.is_set()]
        assert open_now == ["number 49"]
    assert trouble == []


def test_without_a_champion_it_does_not_open() -> None:
    shelf = Shelf()
    shelf.wanted = "nobody"
    with pytest.raises(NotFoundError):
        FollowingChain(shelf, shelf.open_at)
    assert shelf.closed


def test_a_place_without_a_generation_is_none() -> None:
    assert generation_of("index/dev.docs.index#abc", "dev.docs.index") == "abc"
    with pytest.raises(NotFoundError):
        generation_of("index/dev.docs.index", "dev.docs.index")
