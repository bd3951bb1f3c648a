"""What a provider's claims make of a person here: a name, groups, and whether they may come in at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmops.core.errors import DeniedError
from llmops.core.people.accounts import can_be_group
from llmops.serving.sign_in.config import OidcConfig

_NAMES = ("preferred_username", "email", "name", "sub")


def name_of(claims: Mapping[str, Any]) -> str:
    """How the person is called on pages; no identity rests on it."""
    for claim in _NAMES:
        words = "".join(c if c.isprintable() else " " for c in str(claims.get(claim) or "")).split()
        if words:
            return " ".join(words)[:200]
    return "somebody"


def groups_of(claims: Mapping[str, Any], config: OidcConfig) -> frozenset[str]:
    """The person's groups here. Without a mapping those of the provider count that can be the name of one."""
    said = _at(claims, config.groups_claim) if config.groups_claim else None
    words = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    theirs = {word for word in words if isinstance(word, str)}
    if config.groups:
        return frozenset(ours for name, ours in config.groups.items() if name in theirs)
    return frozenset(word for word in theirs if can_be_group(word))


def require_admitted(claims: Mapping[str, Any], groups: frozenset[str], config: OidcConfig) -> None:
    """Refuse whom the provider knows but the configuration does not want.

    Raises:
        DeniedError
    """
    if config.required_groups and groups.isdisjoint(config.required_groups):
        raise DeniedError("you are in none of the groups that may use this", code="not_admitted")
    if config.email_domains:
        domain = str(claims.get("email", "")).rpartition("@")[2].lower()
        wanted = {one.lower().removeprefix("@") for one in config.email_domains}
        if claims.get("email_verified") is not True or domain not in wanted:
            raise DeniedError("your address is not one that may use this", code="not_admitted")


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by a path of names within one another."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
