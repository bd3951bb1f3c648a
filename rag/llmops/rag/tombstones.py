"""Documents that somebody took out of an index: they stay out, whatever their source says, until they are restored.

A tombstone names a document and who took it out, when and why. It holds for every generation of its index, and for the
same bytes under another name, unless a copy of them was left in the index on purpose. Knows rows; how a document leaves
an index is `ingest.removal`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from llmops.rag.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One document's. `at`: seconds since 1970; `size`, `sha256`: of its bytes, where those are kept out as well."""

    uri: str
    actor: str
    reason: str
    at: float
    size: int | None = None
    sha256: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def tombstones(manifest: Manifest) -> dict[str, Tombstone]:
    """All of an index, by uri."""
    found = manifest.query("SELECT uri, actor, reason, at, size, sha256 FROM tombstones ORDER BY uri")
    return {row[0]: Tombstone(*row) for row in found}


def lay(manifest: Manifest, uris: Iterable[str], *, actor: str, reason: str) -> None:
    """Lay tombstones in one transaction, while the documents are still there; one that lies already stays as it is."""
    known = _contents(manifest, set(uris := list(uris)))
    rows = [(uri, actor, reason, time.time(), *known.get(uri, (None, None))) for uri in uris]
    with manifest.transaction():
        manifest.db.executemany("INSERT INTO tombstones VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (uri) DO NOTHING", rows)


def lift(manifest: Manifest, uris: Iterable[str]) -> None:
    """Take tombstones away in one transaction; the next refresh finds the documents new."""
    with manifest.transaction():
        manifest.db.executemany("DELETE FROM tombstones WHERE uri = ?", [(uri,) for uri in uris])


def lift_older(manifest: Manifest, before: float) -> int:
    """Take away those laid before a time; tells how many."""
    with manifest.transaction():
        return manifest.db.execute("DELETE FROM tombstones WHERE at < ?", (before,))


def _contents(manifest: Manifest, uris: set[str]) -> dict[str, tuple[int, str]]:
    """Size and hash of the bytes of these documents, but for those that the index also has under another name."""
    whole = "sha256 <> '' AND size >= 0 ORDER BY generation"
    found = manifest.query(f"SELECT uri, size, sha256 FROM documents WHERE {whole}")  # noqa: S608 - a constant
    elsewhere = {(size, sha256) for uri, size, sha256 in found if uri not in uris}
    return {uri: (size, sha256) for uri, size, sha256 in found if uri in uris and (size, sha256) not in elsewhere}
