"""How the very first version of an asset becomes champion: there is nothing to compare it with; its evidence says so.

Knows this one exception. Every later champion goes through the gates.
"""

from __future__ import annotations

from sqlalchemy import Connection

from llmops.registry import aliases, evidence
from llmops.registry.aliases import Move
from llmops.registry.records import Alias, Version

CHAMPION = "champion"
GATE = "bootstrap"
_METHOD = evidence.Method(name="first-version", version="1")


def crown(connection: Connection, version: Version, *, actor: str) -> Alias | None:
    """Make a version champion if its asset never had one; None (and nothing done) where it had.

    An asset whose champion was taken away on purpose is not crowned again.
    """
    if aliases.history(connection, version.name, CHAMPION):
        return None
    record = evidence.Evidence(
        asset=evidence.Subject.of(version), gate=GATE, verdict="pass", method=_METHOD, actor=actor
    )
    moves = [Move(version.name, CHAMPION, version.version, None, evidence.save(connection, record))]
    return aliases.move(connection, moves, actor=actor)[0]
