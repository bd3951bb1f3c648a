"""Proves that an index is whole: documents, chunks, vectors, store, lexical index and head, each by the manifest.

Reads everything and writes nothing; `repair` marks what is damaged and lets an ordinary refresh put it right, so that
there is one way only in which an index is written. Needs the ingest lock: what is being written can't be judged.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmops.core.errors import IntegrityError
from llmops.rag import kept_vectors, lexicon, records
from llmops.rag.arena import Vectors, checksums
from llmops.rag.index import places
from llmops.rag.index.store import Store
from llmops.rag.index.sync import wanted_ids
from llmops.rag.ingest.generation import choose
from llmops.rag.ingest.look import look
from llmops.rag.ingest.plan import compare
from llmops.rag.ingest.recovery import lost_vectors, mark_damaged, mark_incomplete
from llmops.rag.ingest.refresh import Options, known_of, refresh
from llmops.rag.lexical import Segment, merge
from llmops.rag.manifest import Head, Manifest

if TYPE_CHECKING:
    from llmops.core.state import StateConfig
    from llmops.rag.config import IndexConfig

Part = Literal["sources", "documents", "head", "vectors", "store", "lexical"]

_TOLERANCE = 1e-5
_BATCH = 5_000


@dataclass(frozen=True)
class Problem:
    """One finding. `uri` where it is one document's."""

    part: Part
    what: str
    uri: str | None = None


@dataclass(frozen=True)
class Verification:
    """What was found, and how much was looked at."""

    index: str
    head: Head | None
    problems: tuple[Problem, ...]
    documents: int
    chunks: int
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, as `llmops ingest --verify --json` prints them."""
        return {
            "index": self.index,
            "ok": self.ok,
            "generation": self.head.generation if self.head else None,
            "seq": self.head.seq if self.head else None,
            "digest": self.head.digest if self.head else None,
            "documents": self.documents,
            "chunks": self.chunks,
            "problems": [{"part": p.part, "what": p.what, "uri": p.uri} for p in self.problems],
            "seconds": round(self.seconds, 3),
        }


@dataclass
class _Damage:
    """What the marks of a repair need to know."""

    documents: set[int] = field(default_factory=set)
    vectors: list[bytes] = field(default_factory=list)
    store: bool = False
    lexical: bool = False
    head: bool = False


def verify(config: IndexConfig, state: StateConfig, options: Options | None = None) -> Verification:
    """Check the generation that the configuration means against itself and against its documents.

    Raises:
        NotFoundError: there is no index yet.
        ConflictError: a refresh is running.
    """
    return _examine(config, state, options or Options(), repair=False)


def repair(config: IndexConfig, state: StateConfig, options: Options | None = None) -> Verification:
    """Put right what `verify` finds, refresh, and verify again."""
    options = options or Options()
    if _examine(config, state, options, repair=True).problems:
        refresh(config, state, options)
    return _examine(config, state, options, repair=False)


def _examine(config: IndexConfig, state: StateConfig, options: Options, *, repair: bool) -> Verification:
    began = time.monotonic()
    Manifest.open(state, config.name).close()  # what does not exist needs no embedder chosen for it
    chosen = choose(config, state, options.embedder)
    with Manifest.writing(state, config.name) as manifest:
        generation = manifest.generation(chosen.name)
        examination = _Examination(manifest, generation, config, state)
        problems = tuple(examination.run(chosen.name, chosen.embedder_fingerprint))
        head = manifest.head(generation)
        if repair:
            examination.mark(chosen.name, chosen.embedder_fingerprint)
    counts = (head.documents, head.chunks) if head else (0, 0)
    return Verification(config.name, head, problems, *counts, time.monotonic() - began)


class _Examination:
    """One pass over one generation."""

    def __init__(self, manifest: Manifest, generation: int, config: IndexConfig, state: StateConfig) -> None:
        self.manifest = manifest
        self.generation = generation
        self.config = config
        self.state = state
        self.damage = _Damage()

    def run(self, name: str, embedder: str) -> Iterator[Problem]:
        if self.manifest.head(self.generation) is None:
            yield Problem("head", "the index was never ingested to its end")
            return
        if any(generation == self.generation for generation, _, _ in self.manifest.intents()):
            yield Problem("head", "the last refresh was interrupted; the next one finishes it")
            return
        yield from self._sources()
        yield from self._documents()
        yield from self._head()
        vectors = yield from self._vectors(embedder)
        yield from self._store(name, vectors)
        yield from self._lexical()

    def mark(self, name: str, embedder: str) -> None:
        """Make the next refresh put right what was found."""
        damage = self.damage
        self._fetch_vectors_again(embedder)
        lost_vectors(self.manifest, self.generation, embedder)
        with self.manifest.transaction():
            self.manifest.db.executemany("DELETE FROM vectors WHERE key = ?", [(key,) for key in damage.vectors])
            mark_incomplete(self.manifest, self.generation)
            everything = records.document_stats(self.manifest, self.generation) if damage.head else ()
            mark_damaged(self.manifest, {*damage.documents, *(stat.id for stat in everything)})
            if damage.lexical:
                lexicon.rebuild(self.manifest, self.generation)
            if damage.store or damage.vectors:
                places.set_stamp(self.manifest, name, None)

    def _fetch_vectors_again(self, embedder: str) -> None:
        """What is damaged in this machine's copy only is copied again, not embedded."""
        record = self.manifest.arena(embedder)
        if self.damage.vectors and record is not None and self.manifest.db.is_shared:
            kept_vectors.fetch_again(self.manifest, record)
            self.damage.vectors, self.damage.store = [], True
            list(self._vectors(embedder))

    def _sources(self) -> Iterator[Problem]:
        known = known_of(self.manifest, self.generation, self.config)
        with look(self.config.sources, self.state, known.tombstones) as found:
            work = compare(found, known)
            for item in work.parse():
                is_known = known.document(item.uri) is not None
                what = "the file changed since it was ingested" if is_known else "the file is not ingested yet"
                yield Problem("sources", what, item.uri)
            for item, _ in work.reuse():
                yield Problem("sources", "the file is not ingested yet", item.uri)
            for item, _ in work.relabelled():
                yield Problem("sources", "access list or metadata changed since it was ingested", item.uri)
            for uri, _ in work.removed():
                yield Problem("sources", "the file is gone", uri)

    def _documents(self) -> Iterator[Problem]:
        """Each chunk is the span of its document's text that it says, under the id that follows from it."""
        found = self.manifest.query(
            "SELECT id, uri FROM documents WHERE generation = ? ORDER BY id", (self.generation,)
        )
        for document, uri in found:
            parsed = records.parsed_of(self.manifest, document)
            rows = self.manifest.query(
                'SELECT id, start, "end", text, context FROM chunks WHERE document = ? ORDER BY ordinal', (document,)
            )
            texts = [f"{context}\n{text}" if context else text for *_, text, context in rows]
            if any(parsed.text[start:end] != text for _, start, end, text, _ in rows):
                self.damage.documents.add(document)
                yield Problem("documents", "a chunk is not the span of the text that it names", uri)
            elif [row[0] for row in rows] != records.chunk_ids(uri, texts):
                self.damage.documents.add(document)
                yield Problem("documents", "a chunk's id does not follow from its text", uri)
        orphans = self.manifest.query(
            "SELECT count(*) FROM chunks WHERE generation = ? AND document NOT IN (SELECT id FROM documents)",
            (self.generation,),
        )[0][0]
        if orphans:
            self.damage.head = True
            yield Problem("documents", f"{orphans} chunks belong to no document")

    def _head(self) -> Iterator[Problem]:
        head = self.manifest.head(self.generation)
        assert head is not None
        ids = records.chunk_ids_of(self.manifest, self.generation)
        documents = self.manifest.query("SELECT count(*) FROM documents WHERE generation = ?", (self.generation,))[0][0]
        if (ids.digest, ids.number, documents) != (head.digest, head.chunks, head.documents):
            self.damage.head = True
            yield Problem("head", "the digest of the chunk ids is not the recorded one")

    def _vectors(self, embedder: str) -> Generator[Problem, None, Vectors]:
        record = self.manifest.arena(embedder)
        vectors: Vectors = np.zeros((0, 1), dtype=np.float32)
        if record is not None:
            try:
                vectors = np.asarray(kept_vectors.mapped(self.manifest, record))
            except IntegrityError as error:
                yield Problem("vectors", f"{error.what} ({error.where})")
                return vectors
        found = self.manifest.query(
            "SELECT DISTINCT c.vector, v.slot, v.crc FROM chunks c LEFT JOIN vectors v ON v.key = c.vector"
            " WHERE c.generation = ?",
            (self.generation,),
        )
        missing = sum(1 for _, slot, _ in found if slot is None)
        if missing:
            yield Problem("vectors", f"{missing} chunk texts have no vector")
        held = [row for row in found if row[1] is not None]
        for start in range(0, len(held), _BATCH):
            some = held[start : start + _BATCH]
            stored = vectors[[slot for _, slot, _ in some]]
            norms = np.linalg.norm(stored, axis=1)
            sums = checksums(stored)
            bad = [
                row[0]
                for row, crc, norm in zip(some, sums, norms, strict=True)
                if crc != row[2] or abs(norm - 1) > 1e-3
            ]
            self.damage.vectors += bad
        if self.damage.vectors:
            yield Problem("vectors", f"{len(self.damage.vectors)} vectors are not what was written")
        return vectors

    def _store(self, name: str, vectors: Vectors) -> Iterator[Problem]:
        wanted = wanted_ids(self.manifest, self.generation)
        try:
            store = places.place_of(self.manifest, name).open(places.stamp_of(self.manifest, name))
        except IntegrityError as error:
            self.damage.store = True
            yield Problem("store", error.what)
            return
        try:
            yield from self._compare_store(store, wanted, vectors)
        except IntegrityError as error:
            self.damage.store = True
            yield Problem("store", error.what)
        finally:
            store.close()

    def _compare_store(self, store: Store, wanted: dict[str, int], vectors: Vectors) -> Iterator[Problem]:
        counts: defaultdict[str, int] = defaultdict(int)
        held = store.ids()
        counts["that no document has"] = len(set(held) - set(wanted))
        counts["missing"] = len(set(wanted) - set(held))
        counts["doubled"] = len(held) - len(set(held))
        both = [chunk for chunk in held if chunk in wanted and wanted[chunk] < len(vectors)]
        for start in range(0, len(both), _BATCH):
            got = store.vectors(both[start : start + _BATCH])
            ours = vectors[[wanted[chunk] for chunk in got]]
            theirs = np.stack(list(got.values())) if got else ours
            counts["with another vector"] += int((np.abs(ours - theirs).max(axis=1, initial=0) > _TOLERANCE).sum())
        for what, count in counts.items():
            if count:
                self.damage.store = True
                yield Problem("store", f"{count} chunks {what}")

    def _lexical(self) -> Iterator[Problem]:
        """The stored segments, merged, are byte for byte what a build from the texts gives."""
        head = self.manifest.head(self.generation)
        assert head is not None
        rows = lexicon.texts(self.manifest, self.generation)
        live = np.zeros(head.size, dtype=np.bool_)
        live[[row for row, _ in rows]] = True
        found = self.manifest.query("SELECT data FROM segments WHERE generation = ? ORDER BY id", (self.generation,))
        try:
            stored = merge([Segment.from_bytes(data) for (data,) in found], live)
        except IntegrityError as error:
            self.damage.lexical = True
            yield Problem("lexical", error.what)
            return
        if stored.to_bytes() != Segment.build(rows).to_bytes():
            self.damage.lexical = True
            yield Problem("lexical", "the lexical index is not the one of the chunks' texts")
