"""Documents that somebody took out of an index: they stay out, whatever their source says, until they are restored.

A tombstone names a document and who took it out, when and why. It holds for every generation of its index. Knows rows;
how a document leaves an index is `ingest.removal`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from llmops.rag.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One document's. `at`: seconds since 1970."""

    uri: str
    actor: str
    reason: str
    at: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def tombstones(manifest: Manifest) -> dict[str, Tombstone]:
    """All of an index, by uri."""
    found = manifest.query("SELECT uri, actor, reason, at FROM tombstones ORDER BY uri")
    return {row[0]: Tombstone(*row) for row in found}


def lay(manifest: Manifest, uris: Iterable[str], *, actor: str, reason: str) -> None:
    """Lay tombstones in one transaction; one that lies there already keeps who laid it."""
    rows = [(uri, actor, reason, time.time()) for uri in uris]
    with manifest.transaction():
        manifest.db.executemany("INSERT INTO tombstones VALUES (?, ?, ?, ?) ON CONFLICT (uri) DO NOTHING", rows)


def lift(manifest: Manifest, uris: Iterable[str]) -> None:
    """Take tombstones away in one transaction; the next refresh finds the documents new."""
    with manifest.transaction():
        manifest.db.executemany("DELETE FROM tombstones WHERE uri = ?", [(uri,) for uri in uris])


def lift_older(manifest: Manifest, before: float) -> int:
    """Take away those laid before a time; tells how many."""
    with manifest.transaction():
        return manifest.db.execute("DELETE FROM tombstones WHERE at < ?", (before,))
