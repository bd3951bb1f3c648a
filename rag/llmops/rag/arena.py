"""Vectors on disk: one append-only file of float32 rows per embedder, read by memory map.

Knows rows and slots. It knows no keys: the manifest says which slots count, and only after they are on the disk.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import IntegrityError
from llmops.core.files import sync_directory
from llmops.rag.disk import storage_errors

Vectors = NDArray[np.float32]


class Arena:
    """The writing end. One process writes (the ingest lock); readers map the committed slots."""

    def __init__(self, path: Path, dimension: int, slots: int) -> None:
        """Open or make the file; whatever lies beyond the committed slots was torn by a crash and is cut off.

        Raises:
            IntegrityError: the file is shorter than what was committed.
        """
        self.path = path
        self.dimension = dimension
        self.slots = slots
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            if is_new:
                sync_directory(path.parent)
            if os.fstat(self._file).st_size < self._offset(slots):
                os.close(self._file)
                raise _short(path)
            os.ftruncate(self._file, self._offset(slots))

    def append(self, vectors: Vectors) -> int:
        """Write rows durably and return the slot of the first; the manifest may commit them from now on."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise ValueError(f"vectors of {self.dimension} dimensions are wanted, not of shape {vectors.shape}")
        first = self.slots
        data = memoryview(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
        with storage_errors(self.path):
            written = 0
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self._offset(first) + written)
            os.fsync(self._file)
        self.slots += len(vectors)
        return first

    def read(self) -> Vectors:
        """All slots written so far, mapped."""
        return map_slots(self.path, self.dimension, self.slots)

    def close(self) -> None:
        os.close(self._file)

    def _offset(self, slots: int) -> int:
        return slots * self.dimension * 4


def map_slots(path: Path, dimension: int, slots: int) -> Vectors:
    """The first `slots` rows of an arena file, read-only, without loading them.

    Raises:
        IntegrityError: the file is gone, or shorter than what was committed.
    """
    if slots == 0:
        return np.zeros((0, dimension), dtype=np.float32)
    if not path.exists() or path.stat().st_size < slots * dimension * 4:
        raise _short(path)
    return np.memmap(path, dtype="<f4", mode="r", shape=(slots, dimension))


def checksums(vectors: Vectors) -> list[int]:
    """CRC-32 of each row's bytes, by which `--verify` finds rot."""
    return [zlib.crc32(row) for row in np.ascontiguousarray(vectors, dtype="<f4")]


def _short(path: Path) -> IntegrityError:
    return IntegrityError(
        "the file of vectors is gone or too short",
        where=str(path),
        hint="run `llmops ingest`: what is missing is embedded again",
    )
