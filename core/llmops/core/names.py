"""Three-level names and the references that pick one version of them.

`<catalog>.<schema>.<asset>` names an asset or a table; `name/3` and `name@champion` pick a version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmops.core.errors import UserError

_PART = re.compile(r"[a-z][a-z0-9_]{0,62}")
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """An asset or table: `dev.docs.chat`."""

    catalog: str
    schema: str
    asset: str

    def __str__(self) -> str:
        return f"{self.catalog}.{self.schema}.{self.asset}"

    @classmethod
    def parse(cls, text: str) -> Name:
        parts = text.split(".")
        if len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):
            raise UserError(
                f"`{text}` is not a three-level name",
                hint="write <catalog>.<schema>.<asset>, each of a-z, 0-9 and _, starting with a letter: dev.docs.chat",
            )
        return cls(*parts)


@dataclass(frozen=True, slots=True)
class Ref:
    """One version of an asset: by number (`dev.docs.chat/3`) or by alias (`dev.docs.chat@champion`)."""

    name: Name
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        return f"{self.name}/{self.version}" if self.version is not None else f"{self.name}@{self.alias}"

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read a reference; a bare name means its champion."""
        name, slash, version = text.partition("/")
        if slash:
            if not version.isdigit() or int(version) < 1:
                raise UserError(f"`{text}` names no version", hint="write a number after the slash: dev.docs.chat/3")
            return cls(Name.parse(name), version=int(version))
        name, at, alias = text.partition("@")
        if at and not _ALIAS.fullmatch(alias):
            raise UserError(f"`{alias}` is not an alias", hint="an alias is a word such as champion or challenger")
        return cls(Name.parse(name), alias=alias or "champion")
