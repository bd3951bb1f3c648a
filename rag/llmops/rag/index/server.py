"""What every store on a server has in common: its place, known whole by the count of its vectors.

Knows no engine: a module of an engine says how to connect, and this one what may be believed of what it finds.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

from llmops.core.errors import IntegrityError
from llmops.rag.config import StoreConfig
from llmops.rag.index.store import Store

UNSURE = json.dumps({"count": None})
"""The stamp of a store that is being written: its ids have to be compared."""
REBUILT = "the next `llmops ingest` rebuilds it from the manifest"
AWAY = "is the server up, and index.store.url right? The index is intact: run again"
S = TypeVar("S", bound=Store)


@dataclass(frozen=True)
class ServerPlace(ABC, Generic[S]):
    """Implements `Place`. `patience_s`: how long a call is repeated while the server does not answer."""

    config: StoreConfig
    collection: str
    patience_s: float
    while_written = UNSURE

    @property
    @abstractmethod
    def where(self) -> str:
        """See `Place.where`."""

    @abstractmethod
    def connect(self) -> S:
        """The store as it is there.

        Raises:
            IntegrityError: there is none.
        """

    @abstractmethod
    def create(self) -> S:
        """See `Place.create`."""

    @abstractmethod
    def drop(self) -> None:
        """See `Place.drop`."""

    def exists(self) -> bool:
        return bool(self.collection)

    def is_whole(self, recorded: str | None) -> bool:
        """See `Place.is_whole`; a server that does not answer is UnavailableError."""
        try:
            self.open(recorded).close()
        except IntegrityError:
            return False
        return recorded != UNSURE

    def open(self, recorded: str | None) -> S:
        """See `Place.open`."""
        if recorded is None:
            raise IntegrityError("the vector store was not written to its end", where=self.where, hint=REBUILT)
        store = self.connect()
        try:
            held, wanted = store.count(), json.loads(recorded).get("count", -1)
            if wanted not in (None, held):
                raise IntegrityError(f"the store holds {held} vectors of {wanted}", where=self.where, hint=REBUILT)
        except BaseException:
            store.close()
            raise
        return store

    def writing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def loading(self) -> AbstractContextManager[bool]:
        return nullcontext(True)


def stamp(store: Store) -> str:
    """A server has written what it has answered, so that the count of what it holds is the stamp."""
    return json.dumps({"count": store.count()})
