"""A socket to answer on, bound before anything slow is loaded, and what is wrong with its address in words."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from llmops.core.errors import ConfigError, ConflictError


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket, before anything slow is loaded: a wrong address fails at once.

    Raises:
        ConflictError: the port is in use.
        ConfigError: the address is not of this machine, or the port needs rights.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise _explain(error, host, port) from error
        yield listener
    finally:
        listener.close()


def address(listener: socket.socket, scheme: str = "http") -> str:
    """The URL at which the socket answers."""
    host, port = listener.getsockname()[:2]
    if host == "127.0.0.1":
        host = "localhost"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _explain(error: OSError, host: str, port: int) -> ConflictError | ConfigError:
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return ConflictError(
            f"port {port} is in use", where=where, code="port_in_use",
            hint=f"end its holder, or choose another: --port {port + 1}",
        )  # fmt: skip
    if error.errno == errno.EACCES:
        return ConfigError(f"port {port} needs rights this user lacks", where=where, hint="choose one above 1023")
    return ConfigError(f"the address cannot be listened on: {error.strerror}", where=where, hint="mend `host`")
