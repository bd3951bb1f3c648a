"""What one principal may do, decided from grants and owners alone: pure, and able to say why.

A privilege is held by owning, or by a grant to the principal or one of its groups, on the place or one above it. Every
privilege but BROWSE also needs the gates above the place: USE CATALOG on its catalog, USE SCHEMA on its schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmops.core.identity import EVERYONE, LOCAL, Principal
from llmops.registry.access.privileges import GRANTED_ON, NEEDS_TOO, OF_ASSETS, SERVICE_ONLY, WRITES, Privilege, covered
from llmops.registry.access.securables import Securable

GROUP = "group:"


@dataclass(frozen=True)
class Held:
    """A privilege that is held, and the reason."""

    privilege: Privilege
    securable: Securable
    why: str


@dataclass(frozen=True)
class Rights:
    """What was granted to a principal and its groups, and what they own.

    Args:
        granted: place -> privilege -> to whom.
        owned: place -> which of the principal's names owns it.
    """

    principal: Principal
    enforced: bool
    granted: Mapping[Securable, Mapping[Privilege, str]] = field(default_factory=dict)
    owned: Mapping[Securable, str] = field(default_factory=dict)

    def why(self, privilege: Privilege, place: Securable) -> str | None:
        """The reason for which the principal may do this here; None where it may not."""
        if not self.enforced:
            return "access is not enforced yet"
        if self.refused_outright(privilege, place) or self.closed_gate(privilege, place) is not None:
            return None
        if privilege in NEEDS_TOO and self._source(NEEDS_TOO[privilege], place) is None:
            return None
        return self._source(privilege, place)

    def sees(self, asset: Securable) -> bool:
        """Whether it may know that this asset is there."""
        if self.why(Privilege.BROWSE, asset) is not None:
            return True
        return any(self.why(privilege, asset) is not None for privilege in OF_ASSETS)

    def held(self, place: Securable) -> list[Held]:
        """Every privilege that means something at this place and is held there, with its reason."""
        found = []
        for privilege, levels in GRANTED_ON.items():
            reason = self.why(privilege, place) if place.level in levels else None
            if reason is not None and privilege is not Privilege.ALL_PRIVILEGES:
                found.append(Held(privilege, place, reason))
        return found

    def refused_outright(self, privilege: Privilege, place: Securable) -> bool:
        """People write nothing to a catalog for service principals, whatever they hold."""
        return privilege in WRITES and self.is_reader(place)

    def is_reader(self, place: Securable) -> bool:
        """Whether the principal, a person, only ever reads here."""
        return self.enforced and place.catalog in SERVICE_ONLY and not is_service(self.principal)

    def closed_gate(self, privilege: Privilege, place: Securable) -> tuple[Privilege, Securable] | None:
        """The outermost gate on the way to this place that the principal may not pass."""
        if privilege is Privilege.BROWSE:
            return None
        for gate, level in ((Privilege.USE_CATALOG, "catalog"), (Privilege.USE_SCHEMA, "schema")):
            for at in place.line():
                itself = at == place and privilege in (gate, Privilege.MANAGE)
                if at.level == level and not itself and self._source(gate, at) is None:
                    return gate, at
        return None

    def _source(self, privilege: Privilege, place: Securable) -> str | None:
        """Who owns or was granted what, here or above; gates are not looked at."""
        for at in place.line():
            if at in self.owned:
                return f"{self.owned[at]} owns {at}"
            for granted, to in self.granted.get(at, {}).items():
                if privilege in covered(granted):
                    return f"{granted.value} on {at} to {to}"
        return None


def is_service(principal: Principal) -> bool:
    """Whether it is a program with a key or service sign-in of its own; who types at a terminal is a person."""
    return principal.kind != "person" and principal.id != LOCAL.id


def names_of(principal: Principal) -> frozenset[str]:
    """The names under which grants reach a principal: its own, its groups', everyone's."""
    groups = {f"{GROUP}{group}" for group in (*principal.groups, EVERYONE)}
    return frozenset(groups if principal.id.startswith(GROUP) else groups | {principal.id})
