"""The last stage of a refresh: all that it writes, in the one order in which a crash loses and shows nothing half done.

Vectors first (cached for good), then staged documents, then the store, then the head with all that it replaces in one
transaction, and only then is what was replaced taken from the store. Knows manifest, arena, store and lexical
segments; parses and embeds nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from llmops.core.errors import IntegrityError
from llmops.rag import kept_vectors, lexicon, records
from llmops.rag.arena import Arena, Vectors
from llmops.rag.config import StoreConfig
from llmops.rag.database import SqliteFile
from llmops.rag.facts.derive import Derived, record
from llmops.rag.index import places
from llmops.rag.index.sync import StoreSync
from llmops.rag.manifest import Head, Manifest, Quarantined
from llmops.rag.records import DocumentStat, StagedDocument

if TYPE_CHECKING:
    from llmops.rag.document import SourceItem
    from llmops.rag.ingest.pipeline import Batch
    from llmops.rag.ingest.progress import Meter

_STORE_BATCH = 5_000
_SEGMENT_ROWS = 20_000
_LEAVING = "CREATE TABLE documents (id INTEGER PRIMARY KEY); CREATE TABLE chunks (id BLOB NOT NULL)"


@dataclass(frozen=True, slots=True)
class Target:
    """What is being written: a generation, by number and name, from its current head (None: its first refresh).

    Attributes:
        store: where its vectors have to be from now on; None: where they are.
    """

    generation: int
    name: str
    embedder: str
    head: Head | None
    store: StoreConfig | None = None

    @property
    def seq(self) -> int:
        """The head to come."""
        return 1 if self.head is None else self.head.seq + 1


@dataclass
class Changes:
    """What the head to come replaces, and the rest of what its transaction records; documents by their ids.

    Attributes:
        visible: whether any document is removed or relabelled.
        touched: each with whether a later change of its file may hide.
    """

    removed: Iterable[int] = ()
    relabelled: Iterable[tuple[SourceItem, int]] = ()
    touched: Iterable[tuple[SourceItem, int, bool]] = ()
    visible: bool = True
    quarantine: list[Quarantined] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    derived: Derived = field(default_factory=Derived)
    recipe: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the documents of a batch. `same`: read again, and with their ids what the manifest holds."""

    added: int
    changed: int
    same: list[tuple[SourceItem, int]]


class Writer:
    """Writes one refresh. Used by one thread, under the ingest lock."""

    def __init__(self, manifest: Manifest, target: Target, meter: Meter) -> None:
        self.manifest = manifest
        self.target = target
        self.staged = 0
        self._doubtful = False
        self.chunks = 0
        self.store = StoreSync(manifest, target.generation, target.name, target.store)
        self.meter = meter
        self._row = 0 if target.head is None else target.head.size
        self._arena: Arena | None = None
        self._lexical: list[tuple[int, str]] = []
        self._waiting: list[tuple[bytes, bytes]] = []
        self._leaving = SqliteFile.temporary(_LEAVING)

    def begin(self, *, certain: bool) -> None:
        """Commit the intent, then open arena and store.

        Args:
            certain: the last refresh ended well; else what it left in the store is put right first.
        """
        with self.manifest.transaction():
            self.manifest.set_intent(self.target.generation, self.target.seq, "write")
        certain = certain and places.follows(self.manifest, self.target.name, self.target.head)
        places.follow(self.manifest, self.target.name, None)
        record = self.manifest.arena(self.target.embedder)
        if record is not None:
            self._arena = kept_vectors.opened(self.manifest, record)
        self.store.open(self._vectors(), certain=certain)
        self._doubtful = not certain or self.store.rebuilt > 0

    def write(self, batch: Batch) -> Written:
        """Commit a batch's vectors, then stage its documents, then pass full batches on to the store."""
        began = time.monotonic()
        if batch.vectors is not None:
            self._cache(batch.keys, batch.vectors)
        fresh: list[tuple[StagedDocument, DocumentStat | None]] = []
        same = []
        for staged in batch.documents:
            stat = records.document_stat(self.manifest, self.target.generation, staged.item.uri)
            if stat is not None and self._is_as_known(staged, stat):
                same.append((staged.item, stat.id))
            else:
                fresh.append((staged, stat))
        if fresh:
            self._stage(fresh)
        self.meter.add(sum(len(staged.passages) for staged, _ in fresh), time.monotonic() - began)
        added = sum(1 for _, stat in fresh if stat is None)
        return Written(added, len(fresh) - added, same)

    def commit(self, changes: Changes, *, force: bool = False) -> Head | None:
        """Make the head to come the head, unless a reader could see no difference; then clean up behind it.

        Args:
            force: a new head in any case, for readers to load again what was repaired.
        """
        began = time.monotonic()
        self._flush_store()
        self._flush_lexical()
        self._note_leaving(changes.removed)
        visible = force or bool(self.staged or changes.visible or self.target.head is None)
        visible = visible or changes.derived.changed
        with self.manifest.transaction():
            self._record(changes)
            if visible:
                leaving = self._leaving.stream("SELECT id FROM documents")
                records.remove_documents(self.manifest, (row[0] for row in leaving))
                self._write_head()
            self.manifest.set_intent(self.target.generation, self.target.seq, "clean")
        if force or self._doubtful:  # the store was made while vectors were missing that are there now
            self.store.reconcile(self._vectors())
        else:
            self._clean_store()
        head = self.manifest.head(self.target.generation)
        places.follow(self.manifest, self.target.name, head)
        self.manifest.clear_intent(self.target.generation)
        self.meter.add(seconds=time.monotonic() - began, count=0)
        return head

    def replaced(self) -> Iterator[int]:
        """The documents that staged ones stand in place of."""
        return records.replaced(self.manifest, self.target.generation, self.target.seq)

    def close(self) -> None:
        self.store.close()
        self._leaving.close()
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def _cache(self, keys: list[bytes], vectors: Vectors) -> None:
        if self._arena is None:
            record = self.manifest.add_arena(
                self.target.embedder, f"vectors/{self.target.embedder[:32]}.f32", vectors.shape[1]
            )
            self._arena = kept_vectors.opened(self.manifest, record)
        first = self._arena.append(vectors)
        kept_vectors.insert(self.manifest, self.target.embedder, keys, first, vectors)

    def _is_as_known(self, staged: StagedDocument, stat: DocumentStat) -> bool:
        """Whether a document read again is what the manifest holds, to the last offset."""
        if stat.sha256 != staged.parsed.sha256:
            return False
        held = self.manifest.query(
            'SELECT id, start, "end", page FROM chunks WHERE document = ? ORDER BY ordinal', (stat.id,)
        )
        ours = [(i, p.start, p.end, p.page) for i, p in zip(staged.ids, staged.passages, strict=True)]
        labels = (records.acl_json(staged.item.acl), records.metadata_json(staged.item.metadata))
        return (
            labels == (stat.acl, stat.metadata)
            and held == ours
            and records.parsed_of(self.manifest, stat.id)
            == replace(staged.parsed, metadata=dict(staged.parsed.metadata))
        )

    def _stage(self, documents: list[tuple[StagedDocument, DocumentStat | None]]) -> None:
        place = (self.target.generation, self.target.seq)
        with self.manifest.transaction():
            end = records.stage(self.manifest, place, [staged for staged, _ in documents], self._row)
        for staged, stat in documents:
            held = set() if stat is None else set(records.ids_of(self.manifest, stat.id))
            self._waiting += [pair for pair in zip(staged.ids, staged.keys, strict=True) if pair[0] not in held]
            self._lexical += [(self._row + n, p.indexed_text) for n, p in enumerate(staged.passages)]
            self._row += len(staged.passages)
        assert self._row == end
        self.staged += len(documents)
        self.chunks += sum(len(staged.passages) for staged, _ in documents)
        if len(self._waiting) >= _STORE_BATCH:
            self._flush_store()
        if len(self._lexical) >= _SEGMENT_ROWS:
            self._flush_lexical()

    def _flush_store(self) -> None:
        if self._waiting:
            slots = records.slots_of(self.manifest, [key for _, key in self._waiting])
            self.store.add(
                [chunk for chunk, _ in self._waiting], [slots[key] for _, key in self._waiting], self._vectors()
            )
            self._waiting = []

    def _flush_lexical(self) -> None:
        if self._lexical:
            with self.manifest.transaction():
                lexicon.add(self.manifest, self.target.generation, self.target.seq, self._lexical)
            self._lexical = []

    def _note_leaving(self, removed: Iterable[int]) -> None:
        """Write down which documents the head to come takes out, and which chunks the store has to lose for it."""
        self._leaving.executemany("INSERT OR IGNORE INTO documents VALUES (?)", ((document,) for document in removed))
        replaced = ((document,) for document in self.replaced())
        self._leaving.executemany("INSERT OR IGNORE INTO documents VALUES (?)", replaced)
        for (document,) in self._leaving.stream("SELECT id FROM documents"):
            dead = [(chunk,) for chunk in records.dead_ids(self.manifest, document)]
            self._leaving.executemany("INSERT INTO chunks VALUES (?)", dead)

    def _clean_store(self) -> None:
        dead = self._leaving.stream("SELECT id FROM chunks")
        while some := list(islice(dead, _STORE_BATCH)):
            self.store.delete([row[0] for row in some])

    def _record(self, changes: Changes) -> None:
        records.relabel(self.manifest, changes.relabelled)
        records.touch(self.manifest, changes.touched)
        self.manifest.replace_quarantine(self.target.generation, changes.quarantine)
        record(self.manifest, self.target.generation, changes.recipe, changes.derived.rows)
        for name, value in changes.facts.items():
            self.manifest.set_fact(name, value)

    def _write_head(self) -> None:
        """Write the head row from what the manifest now holds; runs within the committing transaction."""
        generation = self.target.generation
        ids = records.chunk_ids_of(self.manifest, generation)
        if not ids.distinct:
            raise IntegrityError("two chunks have one id", where=self.manifest.where, hint="run `llmops ingest --full`")
        count = self.manifest.query("SELECT count(*) FROM documents WHERE generation = ?", (generation,))[0][0]
        lexicon.tidy(self.manifest, generation, self._row)
        values = (generation, self.target.seq, ids.digest, self._row, count, ids.number, time.time())
        self.manifest.db.execute("INSERT INTO heads VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def _vectors(self) -> Vectors:
        if self._arena is None:
            return kept_vectors.NO_VECTORS
        return self._arena.read()
