"""The last stage of a refresh: all that it writes, in the one order in which a crash loses and shows nothing half done.

Vectors first (cached for good), then staged documents, then the store, then the head with all that it replaces in one
transaction, and only then is what was replaced taken from the store. Knows manifest, arena, store and lexical
segments; parses and embeds nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llmops.core.errors import IntegrityError
from llmops.rag import kept_vectors, lexicon, records
from llmops.rag.arena import Arena, Vectors
from llmops.rag.config import StoreConfig
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
    """What the head to come replaces, and the rest of what its transaction records."""

    removed: set[int] = field(default_factory=set)
    relabelled: list[tuple[int, SourceItem]] = field(default_factory=list)
    touched: list[tuple[int, SourceItem, bool]] = field(default_factory=list)
    quarantine: list[Quarantined] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    derived: Derived = field(default_factory=Derived)
    recipe: str = ""


class Writer:
    """Writes one refresh. Used by one thread, under the ingest lock."""

    def __init__(self, manifest: Manifest, target: Target, known: dict[str, DocumentStat], meter: Meter) -> None:
        self.manifest = manifest
        self.target = target
        self.staged = 0
        self._doubtful = False
        self.chunks = 0
        self.store = StoreSync(manifest, target.generation, target.name, target.store)
        self.meter = meter
        self.same: list[tuple[int, SourceItem, bool]] = []
        self._known = known
        self._row = 0 if target.head is None else target.head.size
        self._arena: Arena | None = None
        self._lexical: list[tuple[int, str]] = []
        self._waiting: list[tuple[bytes, bytes]] = []
        self._new: set[bytes] = set()
        self._replaced: set[int] = set()

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

    def write(self, batch: Batch) -> None:
        """Commit a batch's vectors, then stage its documents, then pass full batches on to the store."""
        began = time.monotonic()
        if batch.vectors is not None:
            self._cache(batch.keys, batch.vectors)
        fresh = []
        for staged in batch.documents:
            if self._is_as_known(staged):
                self.same.append((self._known[staged.item.uri].id, staged.item, staged.racy))
            else:
                fresh.append(staged)
        if fresh:
            self._stage(fresh)
        self.meter.add(sum(len(staged.passages) for staged in fresh), time.monotonic() - began)

    def commit(self, changes: Changes, *, force: bool = False) -> Head | None:
        """Make the head to come the head, unless a reader could see no difference; then clean up behind it.

        Args:
            force: a new head in any case, for readers to load again what was repaired.
        """
        began = time.monotonic()
        self._flush_store()
        self._flush_lexical()
        removed = changes.removed | self._replaced
        visible = force or bool(self.staged or removed or changes.relabelled or self.target.head is None)
        visible = visible or changes.derived.changed
        dead: list[bytes] = []
        with self.manifest.transaction():
            self._record(changes)
            if visible:
                gone = records.ids_of(self.manifest, removed)
                dead = [chunk for chunk in gone if chunk not in self._new]
                records.remove_documents(self.manifest, removed)
                self._write_head()
            self.manifest.set_intent(self.target.generation, self.target.seq, "clean")
        if force or self._doubtful:  # the store was made while vectors were missing that are there now
            self.store.reconcile(self._vectors())
        else:
            self.store.delete(dead)
        head = self.manifest.head(self.target.generation)
        places.follow(self.manifest, self.target.name, head)
        self.manifest.clear_intent(self.target.generation)
        self.meter.add(seconds=time.monotonic() - began, count=0)
        return head

    @property
    def replaced(self) -> set[int]:
        """The documents that staged ones stand in place of."""
        return self._replaced

    def close(self) -> None:
        self.store.close()
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

    def _is_as_known(self, staged: StagedDocument) -> bool:
        """Whether a document read again is what the manifest holds, to the last offset."""
        stat = self._known.get(staged.item.uri)
        if stat is None or stat.sha256 != staged.parsed.sha256:
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

    def _stage(self, documents: list[StagedDocument]) -> None:
        place = (self.target.generation, self.target.seq)
        with self.manifest.transaction():
            end = records.stage(self.manifest, place, documents, self._row)
        for staged in documents:
            stat = self._known.get(staged.item.uri)
            held: set[bytes] = set()
            if stat is not None:
                self._replaced.add(stat.id)
                held = set(records.ids_of(self.manifest, [stat.id]))
            self._waiting += [pair for pair in zip(staged.ids, staged.keys, strict=True) if pair[0] not in held]
            self._new.update(staged.ids)
            self._lexical += [(self._row + n, p.indexed_text) for n, p in enumerate(staged.passages)]
            self._row += len(staged.passages)
        assert self._row == end
        self.staged += len(documents)
        self.chunks += sum(len(staged.passages) for staged in documents)
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

    def _record(self, changes: Changes) -> None:
        for document, item in changes.relabelled:
            labels = (records.acl_json(item.acl), records.metadata_json(item.metadata))
            self.manifest.db.execute("UPDATE documents SET acl = ?, metadata = ? WHERE id = ?", (*labels, document))
        records.touch(self.manifest, changes.touched)
        self.manifest.replace_quarantine(self.target.generation, changes.quarantine)
        record(self.manifest, self.target.generation, changes.recipe, changes.derived.rows)
        for name, value in changes.facts.items():
            self.manifest.set_fact(name, value)

    def _write_head(self) -> None:
        """Write the head row from what the manifest now holds; runs within the committing transaction."""
        generation = self.target.generation
        ids = records.live_ids(self.manifest, generation)
        if len(set(ids)) != len(ids):
            raise IntegrityError("two chunks have one id", where=self.manifest.where, hint="run `llmops ingest --full`")
        count = self.manifest.query("SELECT count(*) FROM documents WHERE generation = ?", (generation,))[0][0]
        lexicon.tidy(self.manifest, generation, self._row)
        values = (generation, self.target.seq, records.digest(ids), self._row, count, len(ids), time.time())
        self.manifest.db.execute("INSERT INTO heads VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def _vectors(self) -> Vectors:
        if self._arena is None:
            return kept_vectors.NO_VECTORS
        return self._arena.read()
