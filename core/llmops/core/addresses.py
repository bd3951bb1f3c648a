"""Which addresses only this machine can reach, which mean every interface, which are of the internet.

One answer for every door and client. Knows addresses; who may come in by which name is `web.hosts`' and each door's
matter.

Sources: RFC 6890 (special addresses), RFC 6052 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from llmops.core.errors import DeniedError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_SPECIAL = tuple(  # of RFC 6890 and its registries what older releases of `ipaddress` hold global
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20", "5f00::/16", "100::/64"))
)
_COMPATIBLE = ipaddress.ip_network("::/96")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Whether the address means every interface."""
    try:
        return host == "" or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def is_public(address: Address) -> bool:
    """Whether an address is of the internet, and whatever other address it wraps as well.

    Private, loopback, link-local (the clouds' metadata), multicast and reserved ones are not.
    """
    return all(_is_global(one) for one in (address, *_wrapped(address)))


def checked_address(host: str, port: int, *, private: bool, hint: str) -> str:
    """An address of the host that may be called: all of them must be public, unless private ones are allowed.

    Connect to the address that this gives: a name may change its address between two questions (DNS rebinding).

    Args:
        hint: how a user allows private addresses.

    Raises:
        DeniedError: one is private, link-local, loopback, or otherwise not of the internet.
        OSError: the name has no address.
    """
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not private:
        for address in found:
            if not is_public(ipaddress.ip_address(address.partition("%")[0])):
                what = f"`{host}` has the address {address}, which is not of the internet"
                raise DeniedError(what, where=host, hint=hint, code="private_address")
    return found[0]


def _is_global(address: Address) -> bool:
    special = address.is_multicast or address.is_reserved or any(address in network for network in _SPECIAL)
    return address.is_global and not special


def _wrapped(address: Address) -> Iterable[Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in _COMPATIBLE or any(address in network for network in _NAT64):
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
