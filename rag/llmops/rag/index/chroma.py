"""The store within this process: one Chroma collection a generation, in a folder of its own.

The only module that imports chromadb. Knows chunk ids and vectors; texts, access and truth are the manifest's, from
which a store can always be rebuilt. It knows no manifest: `index.sync` makes the one follow the other.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.core.errors import IntegrityError, StorageError
from llmops.rag.disk import is_disk_full, storage_errors
from llmops.rag.index import guard
from llmops.rag.index.stamp import DATABASE, is_whole, stamp

if TYPE_CHECKING:
    from llmops.rag.arena import Vectors


class _FreshMemory:
    """While it is entered, the C library overwrites memory as it hands it out.

    Chroma writes its graph to the disk with the room that it has not used yet. That is whatever this process had there
    before: words of documents that the index does not hold, or holds no longer. It costs nothing that can be measured.
    """

    _M_PERTURB = -6  # of malloc.h

    def __init__(self) -> None:
        self._set = getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)  # glibc has it
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        self._change(1)

    def __exit__(self, *_: object) -> None:
        self._change(-1)

    def _change(self, by: int) -> None:
        with self._lock:
            self._inside += by
            self._set(self._M_PERTURB, 0xFF if self._inside else 0)


_fresh_memory = _FreshMemory()
_COLLECTION = "chunks"
_opening = threading.Lock()


@dataclass(frozen=True)
class ChromaFolder:
    """Implements `Place`."""

    folder: Path
    while_written = None

    @property
    def where(self) -> str:
        return f"Chroma in {self.folder}"

    def exists(self) -> bool:
        return self.folder.exists()

    def is_whole(self, recorded: str | None) -> bool:
        return is_whole(self.folder, recorded)

    def create(self) -> ChromaStore:
        with storage_errors(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        return ChromaStore.start(self.folder, create=True)

    def open(self, recorded: str | None) -> ChromaStore:
        """See `Place.open`."""
        if not is_whole(self.folder, recorded):
            raise _damaged(self.folder, "it is missing, or was not written to its end")
        return ChromaStore.start(self.folder, create=False)

    def drop(self) -> None:
        with self.writing(), storage_errors(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)

    def writing(self) -> AbstractContextManager[None]:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return guard.writing(self.folder)

    def loading(self) -> AbstractContextManager[bool]:
        return guard.loading(self.folder)


class ChromaStore:
    """Implements `Store`. One opened before another process wrote is stale."""

    def __init__(self, folder: Path, system: Any, collection: Any, batch: int) -> None:
        self.folder = folder
        self._system = system
        self._collection = collection
        self._batch = batch

    @classmethod
    def start(cls, folder: Path, *, create: bool) -> ChromaStore:
        """Start Chroma on a folder that is whole, or empty."""
        from chromadb.api import ServerAPI
        from chromadb.api.client import Client, SharedSystemClient
        from chromadb.config import Settings, System

        # A client of its own: Chroma shares one system a path, which would hand a stale index to whoever opens anew.
        settings = Settings(
            _env_file=None,
            is_persistent=True,
            persist_directory=str(folder),
            anonymized_telemetry=False,
            allow_reset=False,
        )  # type: ignore[call-arg, unused-ignore]
        with _opening, _errors(folder), _fresh_memory:
            SharedSystemClient.clear_system_cache()
            system = System(settings)
            system.instance(ServerAPI)
            system.start()
            try:
                client = Client.from_system(system)
                if create:
                    collection = client.create_collection(
                        _COLLECTION, embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
                    )
                else:
                    collection = client.get_collection(_COLLECTION, embedding_function=None)
                return cls(folder, system, collection, client.get_max_batch_size())
            except BaseException:
                system.stop()
                raise
            finally:
                SharedSystemClient.clear_system_cache()

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Add or replace vectors, in the largest batches that the store takes."""
        with _errors(self.folder), _fresh_memory:
            for start in range(0, len(ids), self._batch):
                end = start + self._batch
                self._collection.upsert(ids=list(ids[start:end]), embeddings=vectors[start:end])

    def delete(self, ids: Sequence[str]) -> None:
        with _errors(self.folder), _fresh_memory:
            for start in range(0, len(ids), self._batch):
                self._collection.delete(ids=list(ids[start : start + self._batch]))

    def count(self) -> int:
        with _errors(self.folder):
            return int(self._collection.count())

    def ids(self) -> list[str]:
        """Every id that the store holds."""
        with _errors(self.folder):
            return list(self._collection.get(include=[])["ids"])

    def vectors(self, ids: Sequence[str]) -> dict[str, Vectors]:
        """The stored vectors of some ids; an id that is not there is left out."""
        import numpy as np

        found: dict[str, Vectors] = {}
        with _errors(self.folder):
            for start in range(0, len(ids), self._batch):
                got = self._collection.get(ids=list(ids[start : start + self._batch]), include=["embeddings"])
                found.update(zip(got["ids"], np.asarray(got["embeddings"], dtype=np.float32), strict=True))
        return found

    def nearest(self, vector: Vectors, k: int) -> list[str]:
        """The ids of the k nearest vectors by cosine, nearest first."""
        with _errors(self.folder):
            found = self._collection.query(query_embeddings=vector[None, :], n_results=k, include=[])
        return list(found["ids"][0])

    def sync(self) -> str:
        """Make the files durable; returns their stamp."""
        with storage_errors(self.folder):
            for path in [self.folder, *self.folder.rglob("*")]:
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            return stamp(self.folder)

    def close(self) -> None:
        """Free the native index; calls after this fail."""
        self._system.stop()


@contextmanager
def _errors(folder: Path) -> Iterator[None]:
    from chromadb.errors import ChromaError

    try:
        yield
    except (ChromaError, ValueError) as error:
        if is_disk_full(str(error)):
            hint = "free some space, then run again: the index as it was last committed is intact"
            raise StorageError(f"the vector store cannot be written: {error}", where=str(folder), hint=hint) from error
        raise _damaged(folder / DATABASE, str(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # Chroma's Rust part met what it did not expect
            raise
        raise _damaged(folder / DATABASE, str(error)) from error


def _damaged(where: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"the vector store cannot be used: {why}",
        where=str(where),
        hint="the next `llmops ingest` rebuilds it from the manifest",
    )
