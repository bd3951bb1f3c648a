"""How the very first version of an asset becomes champion: there is nothing to compare it with; its evidence says so.

Knows this one exception. Every later champion goes through the gates.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from llmops.registry import aliases, evidence, tables
from llmops.registry.aliases import Move
from llmops.registry.queries import CHAMPION
from llmops.registry.records import Alias, Version

__all__ = ["CHAMPION", "GATE", "crown"]

GATE = "bootstrap"
_METHOD = evidence.Method(name="first-version", version="1")


def crown(connection: Connection, version: Version, *, actor: str) -> Alias | None:
    """Make an asset's only version champion; None (and nothing done) where there are others, or there was a champion.

    An asset whose champion was taken away on purpose is not crowned again, nor is a later version of one whose first
    version goes through the gates.
    """
    if aliases.history(connection, version.name, CHAMPION) or _count(connection, version) > 1:
        return None
    record = evidence.Evidence(
        asset=evidence.Subject.of(version), gate=GATE, verdict="pass", method=_METHOD, actor=actor
    )
    moves = [Move(version.name, CHAMPION, version.version, None, evidence.save(connection, record))]
    return aliases.move(connection, moves, actor=actor)[0]


def _count(connection: Connection, version: Version) -> int:
    query = select(func.count()).where(tables.versions.c.name == str(version.name))
    return int(connection.execute(query).scalar_one())
