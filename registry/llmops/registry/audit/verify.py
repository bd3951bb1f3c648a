"""Checking the chain: every seal, every number, the anchor, every intent's outcome, and the evidence it rests on.

Reads the log once, in order, in large batches. Knows what a broken row looks like and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmops.core.sql import Sql
from llmops.core.state import StateConfig


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `seq` is the row where it shows, None where it is no row's."""

    seq: int | None
    what: str

    def as_json(self) -> dict[str, Any]:
        return {"seq": self.seq, "what": self.what}


@dataclass
class Report:
    """What was found. `problems` mean that somebody changed something; `warnings` that something deserves a look."""

    entries: int = 0
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def verify(sql: Sql, state: StateConfig) -> Report:
    """Check the whole chain."""
    raise NotImplementedError
