"""Ports of loopback that nobody else is given: whoever was meant to listen there can, now or later.

A port that is found, freed and bound a moment later may have gone to another process by then.
"""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port that a server may be told to listen on, kept for as long as this process lives.

    It is held by a socket that is bound and never listens. The kernel gives such a port to nobody who asks for any; a
    server that names it, with SO_REUSEADDR as all do, gets it. Until then whoever connects is refused.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        held.detach()
    return port
