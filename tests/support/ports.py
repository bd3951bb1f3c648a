"""A port of loopback for a program that must be told one, and that nobody else takes before it listens there."""

from __future__ import annotations

import socket


class ReservedPort:
    """A port that is bound without listening: the kernel gives it to nobody who asks for any.

    A program that sets SO_REUSEADDR, as most servers do, can listen on it all the same, again and again; while none
    does, who connects is refused.
    """

    def __init__(self) -> None:
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.number: int = self._holder.getsockname()[1]

    def close(self) -> None:
        self._holder.close()

    def __enter__(self) -> ReservedPort:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
