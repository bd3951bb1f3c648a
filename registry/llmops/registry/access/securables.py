"""What privileges are held on: everything, a catalog, a schema in it, an asset in that; and governed tags beside them.

Knows the tree and how its places are written: `*`, `prod`, `prod.fraud`, `prod.fraud.fraud_clf`, `tag:approval_risk`;
`prod.*` and `prod.fraud.*` mean the catalog and the schema whatever else is called so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmops.core.errors import UserError
from llmops.core.names import Name

_PART = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TAG = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LEVELS = ("everything", "catalog", "schema", "asset")


@dataclass(frozen=True, slots=True, order=True)
class Securable:
    """One place of the tree; `path` is empty for everything. Or, beside the tree, a governed tag."""

    path: tuple[str, ...] = ()
    tag: str | None = None

    def __str__(self) -> str:
        if self.tag is not None:
            return f"tag:{self.tag}"
        return ".".join(self.path) or "*"

    @property
    def level(self) -> str:
        return "tag" if self.tag is not None else _LEVELS[len(self.path)]

    @property
    def catalog(self) -> str | None:
        return self.path[0] if self.path else None

    def above(self) -> tuple[Securable, ...]:
        """The places whose grants reach down to this one, the nearest first."""
        if self.tag is not None:
            return (EVERYTHING,)
        return tuple(Securable(self.path[:length]) for length in range(len(self.path) - 1, -1, -1))

    def line(self) -> tuple[Securable, ...]:
        """This place and those above it."""
        return (self, *self.above())

    @classmethod
    def of(cls, place: Securable | Name | str) -> Securable:
        """Read a place as it is written.

        Raises:
            UserError: it is written otherwise.
        """
        if isinstance(place, Securable):
            return place
        if isinstance(place, Name):
            return cls((place.catalog, place.schema, place.asset))
        if place == "*":
            return EVERYTHING
        kind, colon, tag = place.partition(":")
        if colon and kind == "tag" and _TAG.fullmatch(tag):
            return cls(tag=tag)
        parts = tuple(place.removesuffix(".*").split("."))
        if len(parts) > (2 if place.endswith(".*") else 3) or not all(_PART.fullmatch(part) for part in parts):
            raise UserError(
                f"`{place}` is nothing that privileges are held on",
                hint="write *, a catalog (prod), a schema (prod.fraud), an asset (prod.fraud.fraud_clf) or tag:NAME",
            )
        return cls(parts)


EVERYTHING = Securable()
