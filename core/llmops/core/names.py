"""Three-level names and the references that pick one version of them.

`<catalog>.<schema>.<asset>` names an asset or a table; `name/3` and `name@champion` pick a version. A catalog is an
environment: a two-level name means the one that this process works in, so that one job file serves all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llmops.core.errors import ConfigError, UserError

ENVIRONMENT = "LLMOPS_ENV"
"""The variable that says which catalog a process works in; children inherit it."""
DEFAULT_CATALOG = "dev"
CATALOGS = ("dev", "staging", "prod")
"""The environments that every installation knows; others may be named."""

_PART = re.compile(r"[a-z][a-z0-9_]{0,62}")
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def current_catalog() -> str:
    """The environment that this process works in: `llmops --env`, else LLMOPS_ENV, else dev.

    Raises:
        ConfigError: LLMOPS_ENV is no catalog's name.
    """
    found = os.environ.get(ENVIRONMENT) or DEFAULT_CATALOG
    if not _PART.fullmatch(found):
        raise ConfigError(
            f"`{found}` is not an environment",
            where=f"environment variable {ENVIRONMENT}",
            hint=f"write {', '.join(CATALOGS)}, or another catalog's name",
        )
    return found


@contextmanager
def working_in(catalog: str) -> Iterator[None]:
    """Work in an environment, this process and what it starts, to the end of the block."""
    before = os.environ.get(ENVIRONMENT)
    os.environ[ENVIRONMENT] = catalog
    try:
        current_catalog()
        yield
    finally:
        if before is None:
            del os.environ[ENVIRONMENT]
        else:
            os.environ[ENVIRONMENT] = before


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
        """Read a name; one of two levels lies in the catalog that this process works in."""
        parts = text.split(".")
        if len(parts) not in (2, 3) or not all(_PART.fullmatch(part) for part in parts):
            raise UserError(
                f"`{text}` is not a three-level name",
                hint="write <catalog>.<schema>.<asset>, each of a-z, 0-9 and _, starting with a letter: dev.docs.chat; "
                "or <schema>.<asset> in the catalog of --env",
            )
        return cls(*parts) if len(parts) == 3 else cls(current_catalog(), *parts)


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
