"""Who is asking: the one `Principal` that document access, registry privileges and route scopes all name groups of.

Keys and sign-in turn a request into a principal; they live in `core.keys` and at the doors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EVERYONE = "everyone"
"""The group every principal belongs to; a document without an access list is readable by it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """One requester. `id` is stable and safe to log; it is never a secret."""

    id: str
    kind: Literal["person", "service", "key"] = "person"
    groups: frozenset[str] = frozenset()

    def reads(self, acl: frozenset[str]) -> bool:
        """Whether an access list of group names admits this principal."""
        return EVERYONE in acl or not acl.isdisjoint(self.groups)


LOCAL = Principal(id="local", kind="service")
"""Whoever runs a command on this machine, and a program that calls a loopback endpoint without a key."""
