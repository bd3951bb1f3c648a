"""Makes the vector store follow the manifest: adds, deletes, and rebuilds it where it cannot be trusted.

The store's stamp is taken away before a write and given back after it, so that a crash in between is seen at the next
opening. Knows manifest, arena and store; decides nothing about documents.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llmops.core.errors import IntegrityError
from llmops.rag.arena import Vectors
from llmops.rag.config import StoreConfig
from llmops.rag.index import places
from llmops.rag.index.store import Store
from llmops.rag.manifest import Manifest

_log = logging.getLogger("llmops.rag.index")
_BATCH = 5_000


def wanted_ids(manifest: Manifest, generation: int) -> dict[str, int]:
    """Every chunk id that a store should hold, staged ones included, with its vector's slot."""
    found = manifest.query(
        "SELECT c.id, v.slot FROM chunks c JOIN vectors v ON v.key = c.vector WHERE c.generation = ?", (generation,)
    )
    return {chunk.hex(): slot for chunk, slot in found}


class StoreSync:
    """One generation's store, open for the holder of the ingest lock.

    `config` says where it has to be from now on; without it the store stays where it is.
    """

    def __init__(self, manifest: Manifest, generation: int, name: str, config: StoreConfig | None = None) -> None:
        self.rebuilt = 0
        self._manifest = manifest
        self._generation = generation
        self._name = name
        self._config = config or places.kept_of(manifest, name).config
        self._place = places.place_of(manifest, name)
        self._store: Store | None = None

    def open(self, vectors: Vectors, *, certain: bool) -> None:
        """Open the store, or rebuild it where it is missing or damaged.

        Args:
            certain: no crash came between the manifest and the store; else their ids are compared and made equal.
        """
        places.drop_left(self._manifest, self._config)
        kept = places.kept_of(self._manifest, self._name)
        if not kept.is_at(self._config):
            self.rebuild(vectors, None)
            return
        if kept.config != self._config:  # another token, another patience
            places.keep(self._manifest, self._name, places.Kept(self._config, kept.collection))
            self._place = places.place_of(self._manifest, self._name)
        recorded = places.stamp_of(self._manifest, self._name)
        is_new = recorded is None and not self._place.exists()
        try:
            self._store = self._place.open(recorded)
            if not certain:
                self.reconcile(vectors)
        except IntegrityError as error:
            self.rebuild(vectors, None if is_new else error)

    def reconcile(self, vectors: Vectors) -> tuple[int, int]:
        """Make the store's ids those of the manifest; returns how many were missing and how many were too many."""
        assert self._store is not None
        wanted = wanted_ids(self._manifest, self._generation)
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
        wanted = wanted_ids(self._manifest, self._generation)
        kept = places.begin(self._manifest, self._name, self._config)
        self._place = places.at(self._manifest.folder, self._name, kept)
        with self._place.writing():
            places.set_stamp(self._manifest, self._name, None)
            self._store = self._place.create()
            self._add(self._store, list(wanted), wanted, vectors)
            stamp = self._store.sync()
            with self._manifest.transaction():
                places.adopt(self._manifest, self._name, kept)
                places.set_stamp(self._manifest, self._name, stamp)
        places.drop_left(self._manifest, self._config)
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
        """One write: no stamp of a whole store while it lasts, the new one only if it went well."""
        with self._place.writing():
            places.set_stamp(self._manifest, self._name, self._place.while_written)
            yield self.store
            places.set_stamp(self._manifest, self._name, self.store.sync())

    def _add(self, store: Store, ids: list[str], slots: dict[str, int], vectors: Vectors) -> None:
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            store.add(some, vectors[[slots[chunk] for chunk in some]])
