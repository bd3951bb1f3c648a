"""The gateway's listening sockets, bound before any process is forked, so that a wrong address fails at once.

Each worker has one of its own on the same port (SO_REUSEPORT): the kernel spreads the connections. They belong to the
supervisor: what waits in a dead worker's queue is answered by its successor.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from llmops.core.errors import ConfigError, ConflictError

BACKLOG = 2048


def listen(host: str, port: int, *, setting: str) -> socket.socket:
    """A listening socket that others may join by `join`.

    Raises:
        ConflictError: the port is in use; names the holder where it is a process of this user.
        ConfigError: the address is not of this machine, or the port needs rights.
    """
    if port:
        with _socket(host) as probe:  # SO_REUSEPORT alone would silently share the port with another gateway
            _bind(probe, host, port, setting)
    return _listening(host, port, setting)


def join(first: socket.socket, *, setting: str) -> socket.socket:
    """One more listening socket on the port of `first`."""
    host, port = first.getsockname()[:2]
    return _listening(host, port, setting)


def address(listener: socket.socket) -> str:
    """The URL at which the socket answers."""
    host, port = listener.getsockname()[:2]
    host = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::") else host  # noqa: S104 - read, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _socket(host: str) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return opened


def _listening(host: str, port: int, setting: str) -> socket.socket:
    opened = _socket(host)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(opened, host, port, setting)
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened


def _bind(opened: socket.socket, host: str, port: int, setting: str) -> None:
    try:
        opened.bind((host, port))
    except OSError as error:
        raise _explain(error, host, port, setting) from error


def _explain(error: OSError, host: str, port: int, setting: str) -> ConflictError | ConfigError:
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        by = holder(port)
        return ConflictError(
            f"port {port} is in use{f' by process {by[0]} ({by[1]})' if by else ''}",
            where=where,
            code="port_in_use",
            hint=f"end its holder, or choose another: --set {setting}={port + 1}",
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"port {port} needs rights this user lacks", where=where, hint="choose one above 1023")
    return ConfigError(
        f"the address cannot be listened on: {error.strerror}",
        where=where,
        hint=f"mend `{setting.replace('port', 'host')}`",
    )


def holder(port: int) -> tuple[int, str] | None:
    """The process of this user that listens on a port, with its command; None where /proc does not tell."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not inodes:
        return None
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in inodes for link in (folder / "fd").iterdir()):
                words = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
                return int(folder.name), " ".join([Path(words[0]).name, *words[1:]])[:160]
        except OSError:
            continue  # another user's, or gone meanwhile
    return None


def _listening_inodes(port: int) -> list[str]:
    """Inodes of the sockets in state LISTEN (0A) on a port (man 5 proc: local_address is hex)."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):  # noqa: PTH110 - no path of ours
            continue
        for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                found.append(fields[9])
    return found
