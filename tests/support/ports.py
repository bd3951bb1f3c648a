"""Ports for servers that are started with a number: each is one process' own for as long as that process lives."""

from __future__ import annotations

import socket

_HELD: list[socket.socket] = []
"""Bound and not listening: the kernel gives such a port to nobody who asks for any, and a server may bind it still."""


def free_port() -> int:
    """A port of the loopback that nobody else is given."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    _HELD.append(held)
    port: int = held.getsockname()[1]
    return port
