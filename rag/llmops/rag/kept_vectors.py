"""Where the vectors of a manifest lie on this machine: in an arena, which is a copy where several machines share one.

A shared manifest holds the vectors themselves, by slot. The arena beside it is filled from there up to a mark, which
names the last slot that is known to be committed, and its checksum: what another machine wrote in a slot that this one
wrote too and never committed, or what a restored database holds in its place, is fetched again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmops.core.files import exclusive_lock, write_atomic
from llmops.rag.arena import Arena, Vectors, checksums, map_slots
from llmops.rag.disk import storage_errors
from llmops.rag.manifest import ArenaRecord, Manifest

NO_VECTORS: Vectors = np.zeros((0, 1), dtype=np.float32)
_BATCH = 5_000
_WAIT_S = 600.0
_INSERT = (
    "INSERT INTO vectors SELECT ?, id, ?, ?{data} FROM arenas WHERE embedder = ?"
    " ON CONFLICT (key) DO UPDATE SET arena = excluded.arena, slot = excluded.slot, crc = excluded.crc"
)


def mapped(manifest: Manifest, record: ArenaRecord) -> Vectors:
    """All committed slots, mapped.

    Raises:
        IntegrityError: the file is gone or too short, and nobody else has the vectors.
    """
    _fill(manifest, record)
    return map_slots(manifest.folder / record.file, record.dimension, record.slots)


def opened(manifest: Manifest, record: ArenaRecord) -> Arena:
    """The arena, to be written; under the ingest lock."""
    _fill(manifest, record)
    return Arena(manifest.folder / record.file, record.dimension, record.slots)


def insert(manifest: Manifest, embedder: str, keys: Sequence[bytes], first: int, vectors: Vectors) -> None:
    """Commit vectors that lie in an arena from slot `first` on."""
    sums, slots = checksums(vectors), range(first, first + len(keys))
    with manifest.transaction():
        if manifest.db.is_shared:
            data = [row.tobytes() for row in np.ascontiguousarray(vectors, dtype="<f4")]
            rows = [(*row, embedder) for row in zip(keys, slots, sums, data, strict=True)]
            manifest.db.executemany(_INSERT.format(data=", ?") + ", data = excluded.data", rows)
        else:
            plain = [(*row, embedder) for row in zip(keys, slots, sums, strict=True)]
            manifest.db.executemany(_INSERT.format(data=""), plain)
        manifest.db.execute("UPDATE arenas SET slots = ? WHERE embedder = ?", (first + len(keys), embedder))
    record = manifest.arena(embedder)
    assert record is not None
    mark(manifest, record)


def mark(manifest: Manifest, record: ArenaRecord) -> None:
    """Note that all slots of a record lie in the file as they were committed."""
    if manifest.db.is_shared and record.slots:
        path = manifest.folder / record.file
        with exclusive_lock(_lock(path), what="copying vectors", wait_s=_WAIT_S):
            _note(path, record)


def fetch_again(manifest: Manifest, record: ArenaRecord) -> None:
    """Copy the vectors of a shared manifest anew, as the file is not to be trusted."""
    _mark(manifest.folder / record.file).unlink(missing_ok=True)
    _fill(manifest, record)


def remove(path: Path) -> None:
    """Remove a file of vectors, with what is noted beside it."""
    for one in (_mark(path), _lock(path), path):
        one.unlink(missing_ok=True)


def _fill(manifest: Manifest, record: ArenaRecord) -> None:
    if not (manifest.db.is_shared and record.slots):
        return
    path = manifest.folder / record.file
    with exclusive_lock(_lock(path), what="copying vectors", wait_s=_WAIT_S), storage_errors(path):
        start = _trusted(manifest, record, path)
        if start >= record.slots:
            return
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            width = record.dimension * 4
            if os.fstat(file).st_size < record.slots * width:
                os.ftruncate(file, record.slots * width)
            for first in range(start, record.slots, _BATCH):
                _copy(manifest, record, file, (first, min(first + _BATCH, record.slots)))
            os.fsync(file)
        finally:
            os.close(file)
        _note(path, record)


def _copy(manifest: Manifest, record: ArenaRecord, file: int, span: tuple[int, int]) -> None:
    found = manifest.query(
        "SELECT slot, data FROM vectors WHERE arena = ? AND slot >= ? AND slot < ?", (record.id, *span)
    )
    for slot, data in found:
        os.pwrite(file, data, slot * record.dimension * 4)


def _trusted(manifest: Manifest, record: ArenaRecord, path: Path) -> int:
    """How many slots of the file are those of the manifest."""
    noted = _mark(path)
    if not noted.exists() or not path.exists():
        return 0
    slots, crc = json.loads(noted.read_bytes())
    found = manifest.query("SELECT crc FROM vectors WHERE arena = ? AND slot = ?", (record.id, slots - 1))
    whole = path.stat().st_size >= min(slots, record.slots) * record.dimension * 4
    return int(slots) if whole and found and found[0][0] == crc else 0


def _note(path: Path, record: ArenaRecord) -> None:
    last = map_slots(path, record.dimension, record.slots)[-1:]
    write_atomic(_mark(path), json.dumps([record.slots, *checksums(last)]).encode())


def _mark(path: Path) -> Path:
    return path.with_suffix(".slots")


def _lock(path: Path) -> Path:
    return path.with_suffix(".lock")
