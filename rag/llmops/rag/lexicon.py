"""The lexical segments of a generation in its manifest: added by each refresh, merged before they are many.

Knows where segments are kept and when they are merged; what a segment is, `lexical` knows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmops.core.errors import IntegrityError
from llmops.rag.lexical import Segment, merge
from llmops.rag.manifest import Manifest

_MOST_SEGMENTS = 8


def add(manifest: Manifest, generation: int, seq: int, rows: Sequence[tuple[int, str]]) -> None:
    """Write one segment under a head to come; call it in a transaction."""
    _insert(manifest, generation, seq, Segment.build(rows))


def tidy(manifest: Manifest, generation: int, size: int) -> None:
    """Merge segments where they are many or mostly dead, and make them anew where they cannot be read.

    Call it in the transaction that commits the head, after what it replaces is deleted.

    Args:
        size: rows of the head to come.
    """
    kept = manifest.query(
        "SELECT id, rows, seq FROM segments WHERE generation = ? ORDER BY rows DESC, id", (generation,)
    )
    live = np.zeros(size, dtype=np.bool_)
    rows = manifest.db.stream("SELECT row FROM chunks WHERE generation = ?", (generation,))
    live[np.fromiter((row for (row,) in rows), dtype=np.int64)] = True
    total = sum(rows for _, rows, _ in kept)
    if total > 2 * max(int(live.sum()), 1):
        chosen = kept
    elif len(kept) > _MOST_SEGMENTS:
        smaller = sum(rows for _, rows, _ in kept[1:])
        chosen = kept if smaller > kept[0][1] // 2 else kept[1:]
    else:
        return
    seq = max(seq for _, _, seq in kept)
    ids = [(number,) for number, _, _ in chosen]
    try:
        segment = merge([_read(manifest, number) for (number,) in ids], live)
    except IntegrityError:
        segment, ids = Segment.build(texts(manifest, generation)), [(number,) for number, _, _ in kept]
    manifest.db.executemany("DELETE FROM segments WHERE id = ?", ids)
    _insert(manifest, generation, seq, segment)


def rebuild(manifest: Manifest, generation: int) -> None:
    """Make one segment of all chunk texts, in place of whatever is there; call it in a transaction."""
    head = manifest.head(generation)
    manifest.db.execute("DELETE FROM segments WHERE generation = ?", (generation,))
    _insert(manifest, generation, 1 if head is None else head.seq, Segment.build(texts(manifest, generation)))


def texts(manifest: Manifest, generation: int) -> list[tuple[int, str]]:
    """(row, indexed text) of every chunk."""
    found = manifest.query("SELECT row, context, text FROM chunks WHERE generation = ? ORDER BY row", (generation,))
    return [(row, f"{context}\n{text}" if context else text) for row, context, text in found]


def _insert(manifest: Manifest, generation: int, seq: int, segment: Segment) -> None:
    row = (generation, seq, len(segment.rows), segment.to_bytes())
    manifest.db.execute("INSERT INTO segments (generation, seq, rows, data) VALUES (?, ?, ?, ?)", row)


def _read(manifest: Manifest, number: int) -> Segment:
    return Segment.from_bytes(manifest.query("SELECT data FROM segments WHERE id = ?", (number,))[0][0])
