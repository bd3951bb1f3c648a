"""What the index asks of a vector store, whichever engine it is: ids and vectors of one generation, and no more.

A store is a copy: the manifest says which ids there are, the arena holds their vectors, and filters and access lists
never reach an engine. So an engine is one module with the two classes below, and losing its data loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llmops.rag.arena import Vectors


class Store(Protocol):
    """An open store. Writing is for the holder of the ingest lock. Every call may be repeated without harm.

    Each method raises IntegrityError where the store is damaged or gone (it is then rebuilt), UnavailableError where a
    server does not answer, StorageError where a disk is full.
    """

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Add or replace unit vectors, in the largest batches that the engine takes."""

    def delete(self, ids: Sequence[str]) -> None:
        """Take ids out; one that is not there is no error."""

    def count(self) -> int: ...

    def ids(self) -> list[str]:
        """Every id that the store holds."""

    def vectors(self, ids: Sequence[str]) -> dict[str, Vectors]:
        """The stored vectors of some ids; an id that is not there is left out."""

    def nearest(self, vector: Vectors, k: int) -> list[str]:
        """The ids of the k nearest vectors by cosine, nearest first."""

    def sync(self) -> str:
        """Make everything durable; returns the stamp by which the store is known to be whole at its next opening."""

    def close(self) -> None:
        """Free what is held; calls after this fail."""


class Place(Protocol):
    """Where the store of one generation is, known without opening it; importing its module loads no engine."""

    @property
    def where(self) -> str:
        """For people: the engine, and its folder or address."""

    @property
    def while_written(self) -> str | None:
        """The stamp of a store that is being written: None where a torn write can't be told and it must be rebuilt."""

    def exists(self) -> bool:
        """Whether a store was ever begun here, as far as can be told without asking a server."""

    def is_whole(self, recorded: str | None) -> bool:
        """Whether the store looks as it was recorded."""

    def create(self) -> Store:
        """Make an empty store, in place of whatever is there."""

    def open(self, recorded: str | None) -> Store:
        """Open the store if it is as recorded.

        Raises:
            IntegrityError: it is missing, torn or damaged; rebuild it from the manifest.
        """

    def drop(self) -> None:
        """Remove the store; that there is none is no error."""

    def writing(self) -> AbstractContextManager[None]:
        """Hold the store for writing, where readers could meet half of it."""

    def loading(self) -> AbstractContextManager[bool]:
        """Hold the store for loading; gives False, at once, while somebody writes what must not be read."""
