"""Where the processes of several machines meet: a key-value store at node 0, and what they say to each other there.

    run          node 0: the run's folder, and a word that lies in it
    begun        node 0: the number of the attempt that is under way
    here/<k>/<n> node n is ready for attempt k
    failed/<k>   whoever was first: how attempt k failed
    alive/<n>    a count that goes up while node n lives
    refused      a node: why it cannot take part
    over         node 0: how it ended; so do the others
    ask/<n>      rank n, started by another launcher: a word, under which rank 0 answers (`answer`, `ask`)

The store is torch's TCPStore, by which ranks find each other, too, under a name of each attempt. It lives in node 0's
process: when that is gone, so is everything said here, and the others wait for a new one. Values are JSON, and read
as data. Imports torch when it is used.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import orjson

from llmops.core.errors import LlmopsError, UnavailableError
from llmops.finetune.launch.place import Node, Rank

STORE = "LLMOPS_STORE"
"""Variable of a rank: `<host>:<port>/<attempt>` of the store at which it meets the others."""
MEET_WITHIN = timedelta(minutes=30)
"""For the ranks of an attempt: each loads the model first."""
_ANSWERS_WITHIN = timedelta(seconds=60)
_LOOK_EVERY_S = 0.1
_TRY_EVERY_S = 1.0


class LeaderLostError(LlmopsError):
    """Node 0 does not answer any more."""

    code = "leader_lost"
    exit_code = 75


class Meeting:
    """The store, as one process sees it.

    Args:
        store: of torch.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    def tell(self, key: str, value: Any) -> None:
        self._asked(lambda: self._store.set(key, orjson.dumps(value)))

    def tell_first(self, key: str, value: Any) -> None:
        """Nothing, where somebody has told already."""
        self._asked(lambda: self._store.compare_set(key, "", orjson.dumps(value).decode()))

    def told(self, key: str) -> Any:
        """What was told, or None."""
        return self._asked(lambda: orjson.loads(self._store.get(key)) if self._store.check([key]) else None)

    def count(self, key: str, more: int = 0) -> int:
        """A number that only goes up."""
        return int(self._asked(lambda: self._store.add(key, more)))

    def ask(self, number: int) -> Any:
        """What rank 0 answers to this process, however long that takes: the store outlives restarts, old words do not
        count."""
        word = secrets.token_hex(8)
        self.tell(f"ask/{number}", word)
        while (found := self.told(f"answer/{word}")) is None:
            time.sleep(_LOOK_EVERY_S)
        self.tell(f"heard/{word}", True)
        return found

    def answer(self, numbers: Iterable[int], value: Any, *, within_s: float) -> list[int]:
        """Answer all that ask, or will; gives those who have not heard in time."""
        left, until = list(numbers), time.monotonic() + within_s
        while left and time.monotonic() < until:
            for number in list(left):
                word = self.told(f"ask/{number}")
                if word is None:
                    continue
                if self.told(f"heard/{word}"):
                    left.remove(number)
                else:
                    self.tell(f"answer/{word}", value)
            time.sleep(_LOOK_EVERY_S)
        return left

    @staticmethod
    def _asked(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except RuntimeError as error:  # torch's DistError is one
            raise LeaderLostError("node 0 does not answer any more", hint=str(error).splitlines()[0]) from error


def opened(node: Node) -> Meeting:
    """The store, in node 0's process.

    Raises:
        UnavailableError: its port is taken.
    """
    from torch.distributed import TCPStore

    try:
        store = TCPStore("localhost", node.port, None, True, timeout=_ANSWERS_WITHIN, wait_for_workers=False)
    except RuntimeError as error:
        raise UnavailableError(
            f"nodes cannot meet at port {node.port} of this machine",
            where=str(error).splitlines()[0][:200],
            hint="another training may be using it; start the job again when it has ended",
        ) from error
    return Meeting(store)


def joined(node: Node, *, within_s: float, look: Callable[[], None]) -> Meeting:
    """The store of node 0, as soon as there is one.

    Raises:
        UnavailableError: there is none in time.
    """
    until = time.monotonic() + within_s
    while not _answers(node):
        look()
        if time.monotonic() > until:
            raise UnavailableError(
                f"node 0 cannot be reached within {within_s:.0f} s",
                where=f"{node.host}:{node.port}",
                hint="look at its log; may nodes connect to each other at this port?",
            )
        time.sleep(_TRY_EVERY_S)
    from torch.distributed import TCPStore

    try:
        return Meeting(TCPStore(node.host, node.port, None, False, timeout=_ANSWERS_WITHIN))
    except RuntimeError as error:
        raise LeaderLostError("node 0 does not answer any more", hint=str(error).splitlines()[0]) from error


def of_attempt(text: str) -> Any:
    """torch's store of the attempt that STORE names."""
    from torch.distributed import PrefixStore, TCPStore

    place, _, attempt = text.rpartition("/")
    host, _, port = place.rpartition(":")
    return PrefixStore(f"ranks/{attempt}", TCPStore(host, int(port), None, False, timeout=MEET_WITHIN))


def of_ranks(rank: Rank) -> Any:
    """torch's store of ranks that another launcher has started: its own, or one at rank 0."""
    from torch.distributed import rendezvous

    store, *_ = next(rendezvous("env://", rank.rank, rank.ranks, timeout=timedelta(days=7)))
    return store


def _answers(node: Node) -> bool:
    try:
        with socket.create_connection((node.host.strip("[]"), node.port), timeout=5):
            return True
    except OSError:
        return False
