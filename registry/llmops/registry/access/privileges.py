"""The privileges, as Unity Catalog names them: where each may be granted, which ones write, which need another too.

Source: Databricks, "Unity Catalog privileges reference". Knows words; who holds what is `rights`'.
"""

from __future__ import annotations

from enum import StrEnum

from llmops.core.errors import UserError, did_you_mean


class Privilege(StrEnum):
    """What may be done. The assets of every kind are models in these words."""

    ALL_PRIVILEGES = "ALL PRIVILEGES"
    APPLY_TAG = "APPLY TAG"
    ASSIGN = "ASSIGN"
    BROWSE = "BROWSE"
    CREATE_FUNCTION = "CREATE FUNCTION"
    CREATE_MODEL = "CREATE MODEL"
    CREATE_MODEL_VERSION = "CREATE MODEL VERSION"
    CREATE_SCHEMA = "CREATE SCHEMA"
    CREATE_TABLE = "CREATE TABLE"
    CREATE_VOLUME = "CREATE VOLUME"
    EXECUTE = "EXECUTE"
    MANAGE = "MANAGE"
    MODIFY = "MODIFY"
    READ_VOLUME = "READ VOLUME"
    SELECT = "SELECT"
    USE_CATALOG = "USE CATALOG"
    USE_SCHEMA = "USE SCHEMA"
    WRITE_VOLUME = "WRITE VOLUME"

    @classmethod
    def parse(cls, text: str) -> Privilege:
        """Read a privilege as people write it: any case, spaces, hyphens or underscores.

        Raises:
            UserError: names the nearest.
        """
        word = " ".join(text.replace("_", " ").replace("-", " ").upper().split())
        if word == "ALL":
            return cls.ALL_PRIVILEGES
        try:
            return cls(word)
        except ValueError:
            hint = did_you_mean(word, [privilege.value for privilege in cls])
            raise UserError(
                f"`{text}` is not a privilege", hint=hint or f"there are {', '.join(p.value for p in cls)}"
            ) from None


P = Privilege
LEVELS = ("everything", "catalog", "schema", "asset", "tag")

_FROM_CATALOG, _FROM_SCHEMA, _FROM_ASSET = LEVELS[:2], LEVELS[:3], LEVELS[:4]
GRANTED_ON: dict[Privilege, tuple[str, ...]] = {
    P.USE_CATALOG: _FROM_CATALOG,
    P.BROWSE: _FROM_CATALOG,
    P.CREATE_SCHEMA: _FROM_CATALOG,
    P.USE_SCHEMA: _FROM_SCHEMA,
    P.CREATE_MODEL: _FROM_SCHEMA,
    P.CREATE_TABLE: _FROM_SCHEMA,
    P.CREATE_FUNCTION: _FROM_SCHEMA,
    P.CREATE_VOLUME: _FROM_SCHEMA,
    P.CREATE_MODEL_VERSION: _FROM_ASSET,
    P.EXECUTE: _FROM_ASSET,
    P.SELECT: _FROM_ASSET,
    P.MODIFY: _FROM_ASSET,
    P.READ_VOLUME: _FROM_ASSET,
    P.WRITE_VOLUME: _FROM_ASSET,
    P.APPLY_TAG: _FROM_ASSET,
    P.ASSIGN: ("everything", "tag"),
    P.MANAGE: LEVELS,
    P.ALL_PRIVILEGES: LEVELS,
}
"""Where a privilege may be granted: it is held on that and on everything beneath it, now and later."""

OF_ASSETS = frozenset(p for p, levels in GRANTED_ON.items() if "asset" in levels) - {P.ALL_PRIVILEGES}
"""What may be held on an asset itself; who holds any of these sees it."""
WRITES = frozenset(p for p in P if p.value.startswith("CREATE")) | {P.MODIFY, P.WRITE_VOLUME}
"""What changes a catalog. Who may grant (MANAGE) or approve (APPLY TAG) does not by that alone."""
NEEDS_TOO = {P.MODIFY: P.SELECT}

PROTECTED = frozenset({"champion", "previous_champion"})
"""Aliases that users meet: moving one needs MANAGE; any other alias, APPLY TAG."""
SERVICE_ONLY = frozenset({"prod"})
"""Catalogs that only service principals write to, whoever owns them; moving an alias is writing, too."""


def covered(granted: Privilege) -> frozenset[Privilege]:
    """What one grant gives: itself, or all there are but MANAGE."""
    if granted is P.ALL_PRIVILEGES:
        return frozenset(P) - {P.ALL_PRIVILEGES, P.MANAGE}
    return frozenset({granted})
