"""Which addresses only this machine can reach, which mean every interface, which are of the internet.

One answer for every door and client. Knows addresses; who may come in by which name is `web.hosts`' and each door's
matter.
"""

from __future__ import annotations

import ipaddress
import socket

from llmops.core.errors import DeniedError


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
            parsed = ipaddress.ip_address(address.partition("%")[0])
            mapped = getattr(parsed, "ipv4_mapped", None)
            if not (mapped or parsed).is_global or parsed.is_multicast:
                what = f"`{host}` has the address {address}, which is not of the internet"
                raise DeniedError(what, where=host, hint=hint, code="private_address")
    return found[0]
