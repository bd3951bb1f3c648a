"""Puts right what a killed refresh left behind, before the next one looks at anything.

Knows intents, staged rows and the arena's size. The store is put right by `index.sync` when it is next opened, from
the manifest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from llmops.rag import records
from llmops.rag.manifest import ArenaRecord, Manifest

_log = logging.getLogger("llmops.rag.ingest")
_UNKNOWN = -1


def recover(manifest: Manifest) -> set[int]:
    """Take back what was staged and never committed; vectors stay cached.

    Returns:
        The generations whose store may differ from the manifest. Their intents stay until that is put right.
    """
    intents = manifest.intents()
    for generation, seq, phase in intents:
        head = manifest.head(generation)
        committed = 0 if head is None else head.seq
        with manifest.transaction():
            records.remove_staged(manifest, generation, committed)
        _log.warning("the refresh to seq %d was interrupted (%s); continuing from seq %d", seq, phase, committed)
    return {generation for generation, _, _ in intents}


def lost_vectors(manifest: Manifest, generation: int, embedder: str) -> int:
    """Forget vectors that are no longer on the disk, and mark their documents to be read again.

    A shared manifest has the vectors itself: none of them is lost with this machine's disk.

    Returns:
        How many documents have to be read again.
    """
    record = manifest.arena(embedder)
    if record is not None and not manifest.db.is_shared:
        held = _slots_on_disk(manifest, record)
        if held < record.slots:
            _log.warning(
                "%d of %d vectors are gone from %s; they are embedded again",
                record.slots - held,
                record.slots,
                record.file,
            )
            with manifest.transaction():
                manifest.db.execute("DELETE FROM vectors WHERE arena = ? AND slot >= ?", (record.id, held))
                manifest.db.execute("UPDATE arenas SET slots = ? WHERE id = ?", (held, record.id))
                return mark_incomplete(manifest, generation)
    return 0


def mark_incomplete(manifest: Manifest, generation: int) -> int:
    """Mark documents that lack a vector, so that the next comparison finds them changed; in a transaction."""
    return manifest.db.execute(
        "UPDATE documents SET size = ? WHERE generation = ? AND id IN (SELECT document FROM chunks c"
        " WHERE c.generation = ? AND NOT EXISTS (SELECT 1 FROM vectors v WHERE v.key = c.vector))",
        (_UNKNOWN, generation, generation),
    )


def mark_damaged(manifest: Manifest, documents: Iterable[int]) -> None:
    """Mark documents so that the next refresh reads them again and replaces all their rows; in a transaction."""
    ids = [(_UNKNOWN, document) for document in documents]
    manifest.db.executemany("UPDATE documents SET size = ?, sha256 = '' WHERE id = ?", ids)


def _slots_on_disk(manifest: Manifest, record: ArenaRecord) -> int:
    path = manifest.folder / record.file
    return path.stat().st_size // (record.dimension * 4) if path.exists() else 0
