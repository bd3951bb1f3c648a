"""Signals as bytes on a socket, so that a process without an event loop waits for them and for pipes at once."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Wake:
    """What came in: `wait` gives the signals caught and the descriptors that can be read."""

    def __init__(self) -> None:
        self._heard, self._said = socket.socketpair()
        self._heard.setblocking(False)
        self._said.setblocking(False)

    @property
    def descriptors(self) -> list[int]:
        return [self._heard.fileno(), self._said.fileno()]

    def wait(self, seconds: float, pipes: Iterable[int] = ()) -> tuple[set[int], list[int]]:
        own = self._heard.fileno()
        readable, _, _ = select.select([own, *pipes], [], [], max(0.0, seconds))
        caught = set(self._heard.recv(4096)) if own in readable else set()
        return caught, [pipe for pipe in readable if pipe != own]


@contextmanager
def catching(signals: Iterable[signal.Signals]) -> Iterator[Wake]:
    """Have these signals wake instead of ending the process; as it was before, afterwards."""
    wake = Wake()
    before = {number: signal.signal(number, _leave_it_to_the_socket) for number in signals}
    before_wake = signal.set_wakeup_fd(wake.descriptors[1], warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        signal.set_wakeup_fd(before_wake)
        for number, handler in before.items():
            signal.signal(number, handler)
        wake._heard.close()
        wake._said.close()


def _leave_it_to_the_socket(_number: int, _frame: object) -> None:
    """A handler has to be there for the byte to be written."""
