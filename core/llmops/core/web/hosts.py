"""By which names a server may be called, and whether a request comes from a page of its own.

A page of another site can point its own name at this machine (DNS rebinding) or send simple requests across sites; on
loopback without keys nothing else would stand in its way. Knows header values, and no framework.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmops.core.addresses import is_loopback, is_wildcard

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def names_of(bound: str, allowed: Iterable[str]) -> frozenset[str]:
    """The host names by which clients may call a server bound to this address, without ports."""
    bound = bound.lower().strip("[]")
    names = {name.lower().strip("[]") for name in allowed}
    if is_loopback(bound):
        names |= _LOOPBACK_NAMES
    if not is_wildcard(bound):
        names.add(bound)
    return frozenset(names)


def hostname(host: str) -> str:
    """The name in a Host header, without its port: `[::1]:8000` gives `::1`; empty where it is malformed."""
    host = host.lower()
    if host.startswith("["):
        inside, bracket, rest = host[1:].partition("]")
        return inside if bracket and (not rest or (rest[0] == ":" and rest[1:].isdigit())) else ""
    name, colon, port = host.partition(":")
    return name if not colon or port.isdigit() else ""


def is_own(origin: str, host: str) -> bool:
    """Whether an Origin header names the host the request was sent to; behind a proxy the scheme may differ."""
    scheme, _, place = origin.lower().partition("://")
    return scheme in ("http", "https") and place == host.lower()
