"""Takes whole generations out of an index, and tombstones past their time; under the ingest lock.

One transaction ends a generation; its files go after it, and where a crash comes between, with the next call. A reader
that still holds one answers on from what it has loaded. Knows the manifest; what may go, `retention` says.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from llmops.rag import tombstones
from llmops.rag.index import places
from llmops.rag.ingest.compaction import keep_live_vectors, remove_unused_files
from llmops.rag.manifest import Manifest

_log = logging.getLogger("llmops.rag.ingest")
_TABLES = ("chunks", "derived", "documents", "segments", "heads", "quarantine", "intents")


def remove_generations(manifest: Manifest, names: Sequence[str]) -> None:
    """Remove generations with their vectors and stores; the space is given back."""
    for name in names:
        number = manifest.generation(name)
        with manifest.transaction():
            for table in _TABLES:
                manifest.db.execute(f"DELETE FROM {table} WHERE generation = ?", (number,))  # noqa: S608 - a constant
            manifest.db.execute("DELETE FROM generations WHERE number = ?", (number,))
            places.leave(manifest, name)
        _log.info("removed generation %s", name)
    places.drop_left(manifest)
    if names:
        keep_live_vectors(manifest)
        remove_unused_files(manifest)


def lift_tombstones(manifest: Manifest, before: float) -> int:
    """Lift those laid before a time (seconds since 1970); tells how many."""
    return tombstones.lift_older(manifest, before)
