"""Makes the vector store follow the manifest: adds, deletes, and rebuilds it where it cannot be trusted.

The store's stamp is taken away before a write and given back after it, so that a crash in between is seen at the next
opening. Knows manifest, arena and store; decides nothing about documents.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmops.core.errors import IntegrityError
from llmops.rag.arena import Vectors
from llmops.rag.index.guard import writing
from llmops.rag.index.stamp import is_whole
from llmops.rag.index.store import Store
from llmops.rag.manifest import Manifest

_log = logging.getLogger("llmops.rag.index")
_BATCH = 5_000


def store_folder(folder: Path, generation_name: str) -> Path:
    """Where one generation's store lies in an index folder."""
    return folder / "chroma" / generation_name


class StoreSync:
    """One generation's store, open for the holder of the ingest lock."""

    def __init__(self, manifest: Manifest, generation: int, name: str) -> None:
        self.folder = store_folder(manifest.path.parent, name)
        self.rebuilt = 0
        self._manifest = manifest
        self._generation = generation
        self._store: Store | None = None

    def open(self, vectors: Vectors, *, certain: bool) -> None:
        """Open the store, or rebuild it where it is missing or damaged.

        Args:
            certain: no crash came between the manifest and the store; else their ids are compared and made equal.
        """
        is_new = not self.folder.exists() and self._manifest.store_stamp(self._generation) is None
        try:
            self._store = Store.open(self.folder, self._manifest.store_stamp(self._generation))
            if not certain:
                self.reconcile(vectors)
        except IntegrityError as error:
            self.rebuild(vectors, None if is_new else error)

    def reconcile(self, vectors: Vectors) -> tuple[int, int]:
        """Make the store's ids those of the manifest; returns how many were missing and how many were too many."""
        assert self._store is not None
        wanted = self.wanted()
        held = set(self._store.ids())
        extra = [chunk for chunk in held if chunk not in wanted]
        absent = [chunk for chunk in wanted if chunk not in held]
        if extra or absent:
            with self._write() as store:
                store.delete(extra)
                self._add(store, absent, wanted, vectors)
        return len(absent), len(extra)

    def rebuild(self, vectors: Vectors, why: IntegrityError | None) -> None:
        """Write the whole store anew, from the manifest's ids and the arena's vectors."""
        began = time.monotonic()
        self.close()
        wanted = self.wanted()
        with writing(self._made_parent()):
            self._manifest.set_store_stamp(self._generation, None)
            self._store = Store.create(self.folder)
            self._add(self._store, list(wanted), wanted, vectors)
            self._manifest.set_store_stamp(self._generation, self._store.sync())
        if why is not None and wanted:
            self.rebuilt = len(wanted)
            seconds = time.monotonic() - began
            _log.warning(
                "%s (%s); rebuilt its %d vectors from the manifest in %.1f s", why.what, why.where, len(wanted), seconds
            )

    def add(self, ids: Sequence[bytes], slots: Sequence[int], vectors: Vectors) -> None:
        if ids:
            with self._write() as store:
                for start in range(0, len(ids), _BATCH):
                    some = [chunk.hex() for chunk in ids[start : start + _BATCH]]
                    store.add(some, vectors[list(slots[start : start + _BATCH])])

    def delete(self, ids: Sequence[bytes]) -> None:
        if ids:
            with self._write() as store:
                store.delete([chunk.hex() for chunk in ids])

    def is_whole(self) -> bool:
        """Whether the store's folder looks as it was left."""
        return is_whole(self.folder, self._manifest.store_stamp(self._generation))

    @property
    def store(self) -> Store:
        assert self._store is not None
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    @contextmanager
    def _write(self) -> Iterator[Store]:
        """One write: no stamp while it lasts, the new stamp only if it went well."""
        with writing(self.folder):
            self._manifest.set_store_stamp(self._generation, None)
            yield self.store
            self._manifest.set_store_stamp(self._generation, self.store.sync())

    def wanted(self) -> dict[str, int]:
        """Every chunk id of the manifest, staged ones included, with its vector's slot."""
        found = self._manifest.query(
            "SELECT c.id, v.slot FROM chunks c JOIN vectors v ON v.key = c.vector WHERE c.generation = ?",
            (self._generation,),
        )
        return {chunk.hex(): slot for chunk, slot in found}

    def _add(self, store: Store, ids: list[str], slots: dict[str, int], vectors: Vectors) -> None:
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            store.add(some, vectors[[slots[chunk] for chunk in some]])

    def _made_parent(self) -> Path:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return self.folder
