"""Who may read which document, as a source's own file says it: patterns with groups, of which the last match decides.

Knows text only. A file that is missing or broken is an error of the whole source: a document is never opened to more
people because its rules could not be read.
"""

from __future__ import annotations

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from llmops.core.errors import ConfigError
from llmops.core.identity import EVERYONE
from llmops.rag.sources.patterns import Patterns

MAX_BYTES = 1_000_000


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str = Field(min_length=1)
    groups: tuple[str, ...] = Field(min_length=1)


def narrowed(groups: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """Who may read what is closed to all but these in two ways; perhaps nobody."""
    if EVERYONE in groups or EVERYONE in others:
        return others if EVERYONE in groups else groups
    return tuple(sorted(set(groups) & set(others)))


class Rules:
    """The groups of each path; `default` where no rule matches."""

    def __init__(self, rules: tuple[_Rule, ...] = (), default: tuple[str, ...] = ("everyone",)) -> None:
        self._rules = [(Patterns([rule.path]), rule.groups) for rule in reversed(rules)]
        self._default = default

    @classmethod
    def read(cls, data: bytes, default: tuple[str, ...], where: str) -> Rules:
        """Read a source's file.

        Raises:
            ConfigError: it is no list of paths with groups.
        """
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES:,} bytes")
            return cls(TypeAdapter(tuple[_Rule, ...]).validate_python(yaml.safe_load(data) or ()), default)
        except (ValidationError, yaml.YAMLError, ValueError) as error:
            raise ConfigError(
                f"the access file cannot be read: {str(error).splitlines()[0]}",
                where=where,
                hint='write a list of `- {path: "hr/**", groups: [hr]}`; nothing was changed',
            ) from error

    def groups(self, path: str) -> tuple[str, ...]:
        """Who may read a document, by its path within the source."""
        return next((groups for patterns, groups in self._rules if patterns.match(path)), self._default)
