"""Refuses requests that a page on another site made a browser send: by the name they call us, and by their origin.

A foreign page can point its own name at this machine (DNS rebinding) or send simple requests across sites; on loopback
without keys that would be all it takes. Knows header values; who is asking is `admission`'s.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmops.core.addresses import is_loopback, is_wildcard
from llmops.core.web.hosts import hostname, is_own, names_of
from llmops.gateway.calls import Fault
from llmops.gateway.engine.faults import refusal

_REMEMBERED = 256


class Host:
    """The names by which clients may call this server. A wildcard bind without a list takes any: it asks for keys."""

    def __init__(self, bound: str, allowed: Iterable[str]) -> None:
        allowed = frozenset(allowed)
        self.loopback = is_loopback(bound.lower().strip("[]"))
        self._any = not allowed and is_wildcard(bound.strip("[]"))
        self._names = names_of(bound, allowed) | names_of("localhost", ())
        self._good: set[bytes] = set()

    def check(self, host: bytes | None) -> Fault | None:
        """The refusal of a request with this Host header, if it must be refused."""
        if host in self._good or self._any:
            return None
        text = (host or b"").decode("latin-1")
        if hostname(text) not in self._names:
            return refusal(
                403,
                "foreign_host",
                f"this server is not called `{text[:100]}`",
                "add the name to `allowed_hosts` of the gateway configuration if it is meant",
            )
        if host is not None and len(self._good) < _REMEMBERED:
            self._good.add(host)
        return None


def check_origin(headers: dict[bytes, bytes]) -> Fault | None:
    """The refusal of a page of another site that shows no key."""
    origin = headers.get(b"origin")
    if origin is None:
        if headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            return refusal(403, "foreign_origin", "pages of other sites may not call this server without a key")
        return None
    if is_own(origin.decode("latin-1"), headers.get(b"host", b"").decode("latin-1")):
        return None
    shown = origin[:100].decode("latin-1")
    return refusal(403, "foreign_origin", f"pages of `{shown}` may not call this server without a key")
