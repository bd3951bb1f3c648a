"""One committed state of a generation, held by a read transaction: it stays as it is, whatever is written meanwhile.

Knows how to load a head into arrays, and how to read chunks and documents of that head. It searches nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import IntegrityError, NotFoundError
from llmops.core.identity import Principal
from llmops.rag.arena import Vectors
from llmops.rag.index.access import Access
from llmops.rag.index.coarse import Codes
from llmops.rag.index.types import Chunk, Mask, StoredDocument
from llmops.rag.kept_vectors import NO_VECTORS, mapped
from llmops.rag.lexical import Lexical, Segment
from llmops.rag.lexicon import texts
from llmops.rag.manifest import ArenaRecord, Manifest
from llmops.rag.records import DERIVED, merged, pages_of, text_of

CODED_FROM = 20_000
"""Chunks from which on sign codes are made: fewer are scored one by one, in a millisecond or two."""
_MANY = 500
_READ = 1_000
"""Metadata kept as read, which nobody writes into. It goes with its state: what was forgotten must not stay."""

Metadata = Callable[[str, str, str], Mapping[str, Any]]


class Snapshot:
    """The arrays are by row number, 0 to `head.size` - 1; `slots` is -1 where a row is dead.

    `live_slots` are those of `live_rows`; None where that is every slot of the file, in order.
    """

    def __init__(
        self,
        manifest: Manifest,
        generation: str,
        segments: Mapping[int, Segment],
        coded: tuple[str, Codes] | None = None,
    ) -> None:
        """Load the current head.

        Args:
            manifest: a connection that is from now on this snapshot's.
            segments: of the snapshot before, by number; a segment never changes, so it is not read twice.
            coded: of the snapshot before, the file of vectors and its codes, for the same reason.

        Raises:
            NotFoundError: the generation has no head yet.
            IntegrityError: manifest and vectors do not fit together.
        """
        self._lock = threading.Lock()
        self._manifest = manifest
        self._metadata: Metadata = lru_cache(_READ)(merged)  # chunks of a document, and often of a source, share theirs
        try:
            self._manifest.db.hold()
            self.number = self._manifest.generation(generation)
            head = self._manifest.head(self.number)
            if head is None:
                raise NotFoundError(
                    f"the index `{manifest.name}` was never ingested to its end",
                    where=manifest.where,
                    hint="run `llmops ingest`",
                )
            self.head = head
            self.settings = self._manifest.settings(self.number)
            self._load(segments, coded)
        except BaseException:
            self._manifest.close()
            raise

    def renew(self) -> bool:
        """Hold the same head by a younger transaction, so that the write-ahead log can shrink; False if it moved."""
        fresh = self._manifest.again()
        try:
            fresh.db.hold()
            if fresh.head(self.number) != self.head:
                fresh.close()
                return False
        except BaseException:
            fresh.close()
            raise
        with self._lock:
            old, self._manifest = self._manifest, fresh
        old.close()
        return True

    def again(self) -> Manifest:
        """Another connection to the manifest, which sees its newest state."""
        return self._manifest.again()

    def holds_back(self) -> bool:
        """Whether this view keeps room from being given back."""
        return self._manifest.db.holds_back()

    def chunks(self, rows: Sequence[int]) -> list[Chunk]:
        """The chunks of some live rows, in that order."""
        found: dict[int, Any] = {}
        with self._lock:
            for start in range(0, len(rows), _MANY):
                some = [int(row) for row in rows[start : start + _MANY]]
                marks = ",".join("?" * len(some))
                got = self._manifest.query(
                    "SELECT c.row, c.id, d.uri, d.title, c.page, c.start, c.end, c.text, c.context, d.metadata,"  # noqa: S608 - marks
                    f" d.parsed, {DERIVED} FROM chunks c JOIN documents d ON d.id = c.document"
                    f" WHERE c.generation = ? AND c.row IN ({marks})",
                    [self.number, *some],
                )
                found.update((row[0], row) for row in got)
        ordered = [found[int(row)] for row in rows]
        return [_chunk(self._metadata, *row[1:]) for row in ordered]

    def _readable(self, uri: str, principal: Principal) -> tuple[Any, ...] | None:
        """A document's columns, its groups first. What somebody may not read takes no longer than what is not there."""
        place = (self.number, uri, self.head.seq)
        of_head = "FROM documents d WHERE generation = ? AND uri = ? AND seq <= ?"
        for document, acl in self._manifest.query(f"SELECT id, acl {of_head}", place):
            groups = frozenset(json.loads(acl))
            if principal.reads(groups):
                (found,) = self._manifest.query(
                    f"SELECT title, text, pages, metadata, parsed, {DERIVED}, media_type, sha256"  # noqa: S608
                    " FROM documents d WHERE id = ?",
                    (document,),
                )
                return tuple(sorted(groups)), *found
        return None

    def document(self, uri: str, principal: Principal) -> StoredDocument:
        """A document of this head.

        Raises:
            NotFoundError: there is none for this principal; a private one is not told apart from a missing one.
        """
        if "\0" not in uri:  # no uri holds one, and PostgreSQL would refuse to look for it
            with self._lock:
                found = self._readable(uri, principal)
            if found is not None:
                acl, title, text, pages, facts, parsed, derived, media_type, sha256 = found
                labels = (acl, merged(facts, parsed, derived))
                return StoredDocument(uri, title, text_of(text), pages_of(pages), *labels, media_type, sha256)
        raise NotFoundError("there is no such document", where=uri)

    def close(self) -> None:
        with self._lock:
            self._manifest.close()

    @property
    def codes(self) -> Codes | None:
        """For a first look at many vectors; None where they are few."""
        return None if self.coded is None else self.coded[1]

    def _load(self, known: Mapping[int, Segment], coded: tuple[str, Codes] | None) -> None:
        size = self.head.size
        found = self._manifest.query(
            "SELECT c.row, c.id, c.document, v.slot FROM chunks c JOIN vectors v ON v.key = c.vector"
            " WHERE c.generation = ? AND c.row < ?",
            (self.number, size),
        )
        if len(found) != self.head.chunks:
            lost = self.head.chunks - len(found)
            raise IntegrityError(
                f"{lost} chunks have no vector",
                where=self._manifest.where,
                hint="run `llmops ingest` to embed them again",
            )
        rows = np.array([row[0] for row in found], dtype=np.int64)
        self.slots = _by_row(size, rows, [row[3] for row in found])
        self.live: Mask = self.slots >= 0
        self.live_rows = np.flatnonzero(self.live)
        self.live_slots: NDArray[np.int64] | None = self.slots[self.live_rows]
        self.row_of: dict[str, int] = {row[1].hex(): row[0] for row in found}
        record = self._manifest.arena(self.settings["embedder"])
        self.vectors: Vectors = self._map_vectors(record)
        self.coded = self._code(record, coded)
        if np.array_equal(self.live_slots, np.arange(len(self.vectors))):
            self.live_slots = None
        self.access = self._load_access(_by_row(size, rows, [row[2] for row in found]))
        self.segments = self._load_segments(known)
        self.lexical = Lexical(list(self.segments.values()), self.live)

    def _map_vectors(self, record: ArenaRecord | None) -> Vectors:
        if record is None:
            return NO_VECTORS
        return np.asarray(mapped(self._manifest, record))

    def _code(self, record: ArenaRecord | None, before: tuple[str, Codes] | None) -> tuple[str, Codes] | None:
        if record is None or len(self.live_rows) < CODED_FROM:
            return None
        return record.file, Codes.of(self.vectors, before[1] if before and before[0] == record.file else None)

    def _load_access(self, document_of: NDArray[np.int64]) -> Access:
        found = self._manifest.query(
            "SELECT d.id, d.acl, d.metadata, d.parsed, coalesce(x.facts, '{}') FROM documents d"
            " LEFT JOIN derived x ON x.document = d.id WHERE d.generation = ? AND d.seq <= ? ORDER BY d.id",
            (self.number, self.head.seq),
        )
        ids = np.array([row[0] for row in found], dtype=np.int64)
        places = np.searchsorted(ids, document_of)
        return Access([tuple(row[1:]) for row in found], np.where(document_of >= 0, places, -1), self.live)

    def _load_segments(self, known: Mapping[int, Segment]) -> dict[int, Segment]:
        found = self._manifest.query(
            "SELECT id FROM segments WHERE generation = ? AND seq <= ? ORDER BY id", (self.number, self.head.seq)
        )
        try:
            return {number: known.get(number) or self._segment(number) for (number,) in found}
        except IntegrityError:
            # Made by other analysis rules, or damaged: the texts are here, so search can go on; ingest stores it anew.
            rows = [pair for pair in texts(self._manifest, self.number) if pair[0] < self.head.size]
            return {-1: Segment.build(rows)}

    def _segment(self, number: int) -> Segment:
        return Segment.from_bytes(self._manifest.query("SELECT data FROM segments WHERE id = ?", (number,))[0][0])


def _by_row(size: int, rows: NDArray[np.int64], values: Sequence[int]) -> NDArray[np.int64]:
    out = np.full(size, -1, dtype=np.int64)
    out[rows] = values
    return out


def _chunk(read: Metadata, identifier: bytes, uri: str, title: str | None, *rest: Any) -> Chunk:
    page, start, end, text, context, *facts = rest
    return Chunk(identifier.hex(), uri, title, page, start, end, text, context, read(*facts))
