"""Gives back what is mostly dead: vectors that no chunk has any more, and row numbers of chunks that are gone.

Runs at the end of a refresh, under its lock, after its head is committed; each of the two is one transaction of its
own. Readers of an older state keep the file that they mapped.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmops.core.ids import new_id
from llmops.rag import lexicon
from llmops.rag.arena import Arena
from llmops.rag.facts.derive import drop_unused_replies
from llmops.rag.kept_vectors import mapped, mark, remove
from llmops.rag.manifest import ArenaRecord, Head, Manifest

_log = logging.getLogger("llmops.rag.ingest")

SPARE_SLOTS = 20_000
"""Dead vectors always kept: a revert finds them again, and the file is small."""
SPARE_ROWS = 20_000
SPARE_REPLIES = 20_000
_BATCH = 10_000
_LIVE = "SELECT key, slot FROM vectors WHERE arena = ? AND key IN (SELECT vector FROM chunks)"


def compact(manifest: Manifest, generation: int, embedder: str) -> Head | None:
    """Compact what is mostly dead; returns the head where that made a new one."""
    remove_unused_files(manifest)
    drop_unused_replies(manifest, spare=SPARE_REPLIES)
    record = manifest.arena(embedder)
    if record is not None and record.slots > SPARE_SLOTS:
        live = manifest.query(f"SELECT count(*) FROM ({_LIVE}) AS live", (record.id,))[0][0]  # noqa: S608 - a constant
        if record.slots > 2 * live + SPARE_SLOTS:
            _compact_arena(manifest, record)
    head = manifest.head(generation)
    if head is not None and head.size > 2 * head.chunks + SPARE_ROWS:
        _renumber(manifest, generation, head)
        return manifest.head(generation)
    return None


def keep_live_vectors(manifest: Manifest) -> None:
    """Rewrite every file of vectors that holds one which no chunk has any more."""
    for (embedder,) in manifest.query("SELECT embedder FROM arenas"):
        record = manifest.arena(embedder)
        assert record is not None
        live = manifest.query(f"SELECT count(*) FROM ({_LIVE}) AS live", (record.id,))[0][0]  # noqa: S608 - a constant
        if live < record.slots:
            _compact_arena(manifest, record)


def remove_unused_files(manifest: Manifest, *, grace_s: float = 60.0) -> None:
    """Delete vector files that the manifest no longer names; a reader that still maps one is not disturbed.

    Args:
        grace_s: younger files stay: a reader may be about to map one. 0: none stays, whatever the clock says.
    """
    folder = manifest.folder / "vectors"
    used = {Path(row[0]).name for row in manifest.query("SELECT file FROM arenas")}
    for path in folder.glob("*.f32"):
        if path.name not in used and (not grace_s or time.time() - path.stat().st_mtime >= grace_s):
            remove(path)


def _compact_arena(manifest: Manifest, record: ArenaRecord) -> None:
    """Copy the vectors that chunks have into a new file, then change over in one transaction."""
    folder = manifest.folder
    name = f"vectors/{record.embedder[:32]}-{new_id()[:13]}.f32"
    old = np.asarray(mapped(manifest, record))
    kept = manifest.query(f"{_LIVE} ORDER BY slot", (record.id,))
    new = Arena(folder / name, record.dimension, 0)
    try:
        for start in range(0, len(kept), _BATCH):
            new.append(old[[slot for _, slot in kept[start : start + _BATCH]]])
    finally:
        new.close()
    with manifest.transaction():
        manifest.db.execute("UPDATE vectors SET slot = -1 WHERE arena = ?", (record.id,))
        manifest.db.executemany(
            "UPDATE vectors SET slot = ? WHERE key = ?", [(n, key) for n, (key, _) in enumerate(kept)]
        )
        manifest.db.execute("DELETE FROM vectors WHERE arena = ? AND slot = -1", (record.id,))
        manifest.db.execute("UPDATE arenas SET file = ?, slots = ? WHERE id = ?", (name, len(kept), record.id))
    mark(manifest, replace(record, file=name, slots=len(kept)))
    _log.info("compacted the vectors of %s: %d of %d kept", record.embedder[:12], len(kept), record.slots)


def _renumber(manifest: Manifest, generation: int, head: Head) -> None:
    """Number the chunks from 0 again, in their order, as a head of its own with the same digest."""
    rows = [row[0] for row in manifest.query("SELECT row FROM chunks WHERE generation = ? ORDER BY row", (generation,))]
    with manifest.transaction():
        # Ascending, each number at most the old one: no two chunks ever meet.
        manifest.db.executemany(
            "UPDATE chunks SET row = ? WHERE generation = ? AND row = ?",
            [(new, generation, old) for new, old in enumerate(rows) if new != old],
        )
        lexicon.rebuild(manifest, generation)
        values = (generation, head.seq + 1, head.digest, len(rows), head.documents, head.chunks, time.time())
        manifest.db.execute("INSERT INTO heads VALUES (?, ?, ?, ?, ?, ?, ?)", values)
