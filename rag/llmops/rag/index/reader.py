"""Searching one state of an index, and following its head.

`Index` keeps the newest state loaded, in a thread of its own, so that a request never waits for a refresh;
`IndexReader` is one state, which does not change under whoever holds it. Dense search asks the vector store where that
is faster, and looks at the vectors itself where rows are filtered or few, or while the store cannot answer: at all of
them where they are few, else at those that their sign codes recommend.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import LlmopsError, NotFoundError
from llmops.core.identity import Principal
from llmops.core.state import StateConfig
from llmops.rag.index import places
from llmops.rag.index.snapshot import Snapshot
from llmops.rag.index.store import Store
from llmops.rag.index.types import Chunk, Hits, Mask, Rows, Scores, StoredDocument
from llmops.rag.lexical import Scored
from llmops.rag.manifest import CURRENT, Head, Manifest

if TYPE_CHECKING:
    from llmops.rag.embed import EmbedderSpec

_log = logging.getLogger("llmops.rag.index")

EXACT_BELOW = 200_000
"""Chunks below which the store is never asked: by sign codes 100,000 take 1.3 ms and the ten nearest are found;
Chroma takes 3 ms, finds .97 of them, and first has to be imported and loaded. A million take 15 ms by codes."""

SCANNED_WHOLE = 10_000
"""Rows up to which every one is scored; of more, those whose sign codes are nearest (`coarse`)."""
CANDIDATES = 1_250
CANDIDATES_SHARE = 400
"""So many, and one more for so many rows, are scored exactly. Of the ten nearest this finds .9997 among 100,000 and
.996 among a million vectors that are as clustered as real ones, of the hundred nearest .993 and .983."""
_PICKED = 256
"""Rows picked and scored together: they stay in the cache, and BLAS starts no threads that wait for a busy core."""

POLL_S = 0.5
_RENEW_S = 2.0
"""How long a state is held by one transaction at least, before it is begun anew for the database's sake."""


class IndexReader:
    """One state of an index. Safe to share between threads; keep it for a request, not for good."""

    def __init__(self, snapshot: Snapshot, *, exact_below: int = EXACT_BELOW) -> None:
        self._snapshot = snapshot
        self._exact_below = exact_below
        self._store: Store | None = None
        self.exact_scans = 0
        self.store_queries = 0

    @property
    def head(self) -> Head:
        return self._snapshot.head

    @property
    def size(self) -> int:
        """Rows are 0 to `size` - 1; some may be dead."""
        return self._snapshot.head.size

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the generation's name is a hash of."""
        return self._snapshot.settings

    @property
    def embedder_spec(self) -> EmbedderSpec:
        """The embedder that made this generation's vectors: questions must be embedded by the same.

        Raises:
            NotFoundError: the generation was made by an embedder that no configuration can name.
        """
        from llmops.rag.embed import EmbedderSpec

        spec = self._snapshot.settings["embedder_spec"]
        if spec is None:
            raise NotFoundError("the embedder of this index is not one that a configuration names")
        return EmbedderSpec(**spec)

    def allowed(self, principal: Principal, filters: Mapping[str, Any] | None = None) -> Mask | None:
        """The rows that this principal may read and the filters admit, by row; None where that is all of them.

        Raises:
            UserError: a filter names metadata that no document has.
        """
        return self._snapshot.access.mask(principal, filters or {})

    def values(self, principal: Principal, names: Iterable[str], most: int) -> dict[str, list[Hashable]]:
        """Some values of each fact, the commonest first, of documents that this principal may read."""
        return self._snapshot.access.values(principal, names, most)

    def dense(self, vector: Scores, k: int, allowed: Mask | None = None) -> Hits:
        """The k allowed rows nearest to a unit vector, by cosine."""
        if allowed is None and self.head.chunks >= self._exact_below:
            hits = self._ask_store(vector, k)
            if hits is not None:
                return hits
        self.exact_scans += 1
        rows = self._snapshot.live_rows if allowed is None else np.flatnonzero(allowed & self._snapshot.live)
        if self._snapshot.codes is not None and len(rows) > SCANNED_WHOLE:
            slots = self._snapshot.live_slots if allowed is None else self._snapshot.slots[rows]
            most = max(k, CANDIDATES + len(rows) // CANDIDATES_SHARE)
            rows = rows[self._snapshot.codes.likely(vector, slots, most)]
        return _best(rows, self.dense_scores(vector, rows), k)

    def dense_scores(self, vector: Scores, rows: NDArray[Any]) -> Scores:
        """The cosine of some live rows with a unit vector."""
        vectors, slots = self._snapshot.vectors, self._snapshot.slots[np.asarray(rows, dtype=np.int64)]
        wanted = np.ascontiguousarray(vector, dtype=np.float32)
        if len(slots) * 2 >= len(vectors) > 0:
            whole: Scores = (vectors @ wanted)[slots]
            return whole  # the whole file once, in order, is faster than picking most of it
        scores = np.empty(len(slots), dtype=np.float32)
        picked = np.empty((min(len(slots), _PICKED), vectors.shape[1]), dtype=np.float32)
        for start in range(0, len(slots), _PICKED):
            some = slots[start : start + _PICKED]
            vectors.take(some, axis=0, out=picked[: len(some)], mode="clip")  # "raise" would copy once more
            np.dot(picked[: len(some)], wanted, out=scores[start : start + _PICKED])
        return scores

    def lexical(self, query: str) -> Scored:
        """The BM25 scores of all rows. Rows that the reader may not see are among them: name the allowed ones."""
        return self._snapshot.lexical.scored(query)

    def chunks(self, rows: NDArray[Any] | list[int]) -> list[Chunk]:
        """The chunks of live rows, in that order."""
        return self._snapshot.chunks([int(row) for row in rows])

    def document(self, uri: str, principal: Principal) -> StoredDocument:
        """A document's text as it was indexed.

        Raises:
            NotFoundError: there is none for this principal; a private one is not told apart from a missing one.
        """
        return self._snapshot.document(uri, principal)

    def _ask_store(self, vector: Scores, k: int) -> Hits | None:
        """The store's answer, scored anew from the arena; None where it cannot be had or is short."""
        store = self._store
        if store is None:
            return None
        try:
            ids = store.nearest(np.ascontiguousarray(vector, dtype=np.float32), min(k + k // 4 + 8, self.head.chunks))
        except LlmopsError as error:
            self._store = None
            _log.warning("%s; answering by exact scan until it can be used", error.what)
            return None
        rows = np.array([self._snapshot.row_of[i] for i in ids if i in self._snapshot.row_of], dtype=np.int64)
        if len(rows) < min(k, self.head.chunks):
            return None  # a refresh is changing what lies there
        self.store_queries += 1
        return _best(rows, self.dense_scores(vector, rows), k)


class Index:
    """An open index: hands out the newest state. Close it when done."""

    def __init__(self, state: StateConfig, name: str, generation: str, *, exact_below: int = EXACT_BELOW) -> None:
        self.generation = generation
        self._exact_below = exact_below
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._complained = ""
        self._watching = Manifest.open(state, name)
        self._seen = self._watching.db.news()
        self._checked = self._renewed = time.monotonic()
        self._snapshot = Snapshot(self._watching.again(), generation, {})
        self._reader = self._new_reader(self._snapshot)
        self._thread = threading.Thread(target=self._follow, name="llmops-index", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, state: StateConfig, name: str, generation: str | None, *, exact_below: int = EXACT_BELOW) -> Index:
        """Open a generation, by default the one refreshed last.

        Raises:
            NotFoundError: no such index or generation, or it was never ingested to its end.
        """
        if generation is None:
            manifest = Manifest.open(state, name)
            try:
                generation = manifest.fact(CURRENT)
            finally:
                manifest.close()
            if generation is None:
                raise NotFoundError(
                    f"the index `{name}` was never ingested to its end",
                    hint="run `llmops ingest`",
                )
        return cls(state, name, generation, exact_below=exact_below)

    def reader(self) -> IndexReader:
        """The newest state, at most 2 s behind the last commit; costs nothing where nothing changed."""
        if time.monotonic() - self._checked > 2 * POLL_S and self._lock.acquire(blocking=False):
            try:  # the thread did not get its turn
                self._check()
            except LlmopsError as error:
                self._complain_of(error)
            finally:
                self._lock.release()
        return self._reader

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._watching.close()

    def _follow(self) -> None:
        self._attempt(lambda: self._load_store(self._reader))
        while not self._closed.wait(POLL_S):
            self._attempt(self._look)

    def _look(self) -> None:
        with self._lock:
            self._check()
        if self._reader._store is None:
            self._load_store(self._reader)

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except LlmopsError as error:
            self._complain_of(error)
        except Exception:  # noqa: BLE001 - the thread must live on: old answers are better than none
            _log.exception("cannot follow the index; answering from seq %d", self._reader.head.seq)

    def _check(self) -> None:
        """Load the head anew if it moved; runs under the lock."""
        self._checked = time.monotonic()
        if self._watching.db.is_replaced():
            fresh = self._watching.again()
            self._watching.close()
            self._watching = fresh
            self._seen = -1
        version = self._watching.db.news()
        if version != self._seen and not self._snapshot.renew():
            self._snapshot = Snapshot(
                self._watching.again(), self.generation, self._snapshot.segments, self._snapshot.coded
            )
            self._reader = self._new_reader(self._snapshot)
            self._complained = ""
        elif version == self._seen and self._is_in_the_way() and not self._snapshot.renew():
            version = -1  # the head moved this moment
        self._seen = version

    def _is_in_the_way(self) -> bool:
        """Whether it is time to hold the state by a new transaction, so that the database can give room back."""
        if time.monotonic() - self._renewed < _RENEW_S or not self._snapshot.holds_back():
            return False
        self._renewed = time.monotonic()
        return True

    def _new_reader(self, snapshot: Snapshot) -> IndexReader:
        reader = IndexReader(snapshot, exact_below=self._exact_below)
        weakref.finalize(reader, snapshot.close)
        return reader

    def _load_store(self, reader: IndexReader) -> None:
        """Open the store for a state, if it would be asked and nobody is writing; else the exact scan goes on."""
        if reader.head.chunks < self._exact_below or self._reader is not reader:
            return
        manifest = self._snapshot.again()
        try:
            place = places.place_of(manifest, self.generation, reading=True)
            with place.loading() as free:
                if not free or not places.follows(manifest, self.generation, reader.head):
                    return
                store = place.open(places.stamp_of(manifest, self.generation))
                store.nearest(self._snapshot.vectors[0], 1)  # loads the graph while the guard is held
                enough = store.count() >= reader.head.chunks
        except (LlmopsError, OSError) as error:
            what = error.what if isinstance(error, LlmopsError) else str(error)
            self._complain(f"{what}; answering by exact scan until it can be used")
            return
        finally:
            manifest.close()
        if not enough:
            store.close()
            self._complain("the vector store holds less than the manifest; answering by exact scan")
            return
        weakref.finalize(reader, store.close)
        reader._store = store

    def _complain_of(self, error: LlmopsError) -> None:
        self._complain(f"{error.what} ({error.where}); answering from seq {self._reader.head.seq}")

    def _complain(self, message: str) -> None:
        """Say something once, not at every poll."""
        if message != self._complained:
            self._complained = message
            _log.warning("index %s: %s", self._watching.name, message)


def _best(rows: Rows, scores: Scores, k: int) -> Hits:
    """The k best of some rows, best first, the lower row first among equals."""
    if len(rows) > k > 0:
        kept = np.argpartition(-scores, k - 1)[:k]
        edge = scores[kept].min()
        kept = np.flatnonzero(scores >= edge)
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[: max(k, 0)]
    return Hits(rows[order], scores[order])
