"""Opens connections to one origin: names resolved now and then, addresses tried side by side, TLS on top.

Happy eyeballs (RFC 8305): addresses of both families take turns, the next one starts when the former failed or after
`STAGGER_S`; the first connection wins and the others are closed. Resolved names are kept for `NAMES_S`, so that the
resolver's thread is not asked for every connection. Knows the operator's URL, nothing that came from a caller: for
that reason private and loopback addresses are as good as any here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from llmops.core.errors import ConfigError
from llmops.gateway.calls import Fault
from llmops.gateway.http.tls import ResumingContext

STAGGER_S = 0.25
NAMES_S = 30.0

P = TypeVar("P")
"""What serves as an `asyncio.Protocol`."""

Address = tuple[socket.AddressFamily, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a provider's URL."""

    host: str
    port: int
    secure: bool

    @classmethod
    def of(cls, url: str) -> Origin:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"a provider's URL cannot be read: {error}", where="providers.*.url") from error
        if not host or parts.username is not None:
            raise ConfigError("a provider's URL names a host, and no user", where="providers.*.url")
        secure = parts.scheme == "https"
        return cls(host.encode("idna").decode("ascii"), port or (443 if secure else 80), secure)

    @property
    def authority(self) -> bytes:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        standard = self.port == (443 if self.secure else 80)
        return host.encode() if standard else f"{host}:{self.port}".encode()


class Dialer:
    """Makes connections to one origin. Every failure is a `Fault` that says which step failed."""

    def __init__(self, origin: Origin, context: ResumingContext | None, server_name: str | None) -> None:
        self._origin = origin
        self._context = context
        self._server_name = server_name or origin.host
        self._loop = asyncio.get_running_loop()
        self._addresses: list[Address] = []
        self._fresh_until = 0.0
        self._lookup: asyncio.Task[list[Address]] | None = None

    async def dial(self, factory: Callable[[], P], limit_s: float) -> P:
        """Connect within `limit_s`; gives the protocol that `factory` made. Raises Fault."""
        try:
            async with asyncio.timeout(limit_s):
                return await self._hand_over(await self._connect(await self._resolve()), factory)
        except TimeoutError as error:
            self._fresh_until = 0.0
            raise Fault("connect_timeout", "no connection to the upstream in time", 504) from error
        except ssl.SSLError as error:
            raise Fault("tls", f"no secure connection to the upstream: {_reason(error)}") from error
        except OSError as error:
            self._fresh_until = 0.0
            raise Fault("refused", "the upstream takes no connection") from error

    def close(self) -> None:
        if self._lookup is not None:
            self._lookup.cancel()

    async def _hand_over(self, sock: socket.socket, factory: Callable[[], P]) -> P:
        tls: dict[str, Any] = {}
        if self._context is not None:
            tls = {"ssl": self._context, "server_hostname": self._server_name}
        try:
            made = cast("Callable[[], asyncio.Protocol]", factory)
            _, protocol = await self._loop.create_connection(made, sock=sock, **tls)
        except BaseException as error:
            sock.close()
            if tls and isinstance(error, ConnectionError):  # it hung up on our hello
                raise Fault("tls", "the upstream ended the handshake") from error
            raise
        return cast("P", protocol)

    async def _resolve(self) -> list[Address]:
        """Addresses in the order to try; however many connections are wanted at once, the resolver is asked once."""
        if self._addresses and self._loop.time() < self._fresh_until:
            return self._addresses
        if self._lookup is None:
            self._lookup = self._loop.create_task(self._look_up())
            self._lookup.add_done_callback(self._looked_up)
        return await asyncio.shield(self._lookup)

    def _looked_up(self, lookup: asyncio.Task[list[Address]]) -> None:
        self._lookup = None
        if not lookup.cancelled() and lookup.exception() is None:
            self._addresses = lookup.result()
            self._fresh_until = self._loop.time() + NAMES_S

    async def _look_up(self) -> list[Address]:
        origin = self._origin
        found = await self._loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        first = found[0][0] if found else None
        leading = [(family, address) for family, _, _, _, address in found if family == first]
        others = [(family, address) for family, _, _, _, address in found if family != first]
        turns = chain.from_iterable(zip_longest(leading, others))
        return [address for address in turns if address is not None]

    async def _connect(self, addresses: list[Address]) -> socket.socket:
        if len(addresses) == 1:
            return await self._connect_one(addresses[0])
        failed: list[OSError] = []
        trying: set[asyncio.Task[socket.socket]] = set()
        waiting = list(addresses)
        try:
            while waiting or trying:
                if waiting:
                    trying.add(self._loop.create_task(self._connect_one(waiting.pop(0))))
                done, trying = await asyncio.wait(
                    trying, timeout=STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    if not (error := task.exception()):
                        trying |= done - {task}
                        return task.result()
                    if not isinstance(error, OSError):
                        raise error
                    failed.append(error)
        finally:
            await _discard(trying)
        raise failed[0] if failed else OSError("the name has no address")

    async def _connect_one(self, address: Address) -> socket.socket:
        family, where = address
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # long thinking behind a forgetful NAT
            await self._loop.sock_connect(sock, where)
        except BaseException:
            sock.close()
            raise
        return sock


async def _discard(tasks: set[asyncio.Task[socket.socket]]) -> None:
    """Stop the attempts that lost; one that connected all the same is closed."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, OSError):
            (await task).close()


def _reason(error: ssl.SSLError) -> str:
    """The part of OpenSSL's message that names no file and no line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    return str(error.reason or "the handshake failed").replace("_", " ").lower()
