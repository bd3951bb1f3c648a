"""What a refresh has to do: documents as they lie now against documents as the manifest holds them.

Compares by size and time, and reads (hashes) a file only where those may deceive or where it may be a known document
under a new name. Both sides are read in the order of their uris, and what comes of it lies in the temporary database of
the pass: memory does not grow with the documents. Parses nothing, writes nothing, and imports nothing heavy: it is most
of an unchanged refresh.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from llmops.core.errors import ConflictError
from llmops.core.files import sha256_of
from llmops.rag.document import Rejected, SourceItem
from llmops.rag.ingest.look import Found, Listed, side_by_side
from llmops.rag.manifest import Manifest, Quarantined
from llmops.rag.records import DocumentStat, document_stat, document_stats
from llmops.rag.tombstones import Tombstone

RACY_NS = 2_000_000_000
"""A file changed within 2 s before a scan may change again unseen: some file systems keep whole seconds only."""

FEW_REMOVED = 20
"""So many documents may always go at once."""

_SCHEMA = (
    "CREATE TABLE todo (what TEXT, uri TEXT, document INTEGER, former TEXT, PRIMARY KEY (what, uri)) WITHOUT ROWID",
    "CREATE TABLE held (document INTEGER PRIMARY KEY, size INTEGER, suffix TEXT, sha256 TEXT, gone INTEGER, uri TEXT)",
)
_SIZES = 1 << 16

What = Literal["parse", "reuse", "touched", "relabelled", "removed"]


@dataclass(frozen=True, slots=True)
class Known:
    """What the manifest holds before the refresh. `tombstones`: uris that stay out, though their source has them."""

    manifest: Manifest
    generation: int
    quarantine: Mapping[str, Quarantined]
    limits: str
    tombstones: Mapping[str, Tombstone] = field(default_factory=dict)

    def documents(self) -> Iterator[DocumentStat]:
        """All of them, in the order of their uris."""
        return document_stats(self.manifest, self.generation)

    def document(self, uri: str) -> DocumentStat | None:
        return document_stat(self.manifest, self.generation, uri)


class Work:
    """A comparison's result: how many documents there are of each kind, and which, in the order of their uris.

    `parse`: to read, new or changed. `reuse`: the manifest holds their very bytes already. `touched`: the same bytes
    under a new time; only the record of that changes. `relabelled`: the same bytes under another access list or other
    metadata. `removed`: gone, or not to be read any more.

    Attributes:
        renamed: of `reuse`, how many have a former place that is empty now.
        buried: of `removed`, how many have a tombstone.
        waiting: in quarantine and not tried again yet.
        known: how many documents the manifest holds.
    """

    def __init__(self, found: Found) -> None:
        self.count: Counter[What] = Counter()
        self.unchanged = 0
        self.known = 0
        self.renamed = 0
        self.buried = 0
        self.rejected: list[Rejected] = []
        self.waiting: list[Quarantined] = []
        self._scanned_ns = found.scanned_ns
        self._scratch = found.scratch
        for statement in _SCHEMA:
            self._scratch.execute(statement)

    @property
    def is_empty(self) -> bool:
        """Whether nothing that a reader could see has to change."""
        return not any(self.count[what] for what in ("parse", "reuse", "relabelled", "removed"))

    @property
    def to_read(self) -> int:
        """How many documents go through the stages of a refresh."""
        return self.count["parse"] + self.count["reuse"]

    def racy(self, mtime_ns: int) -> bool:
        """Whether a later change of a file may leave its size and time as they are."""
        return mtime_ns >= self._scanned_ns - RACY_NS

    def parse(self) -> Iterator[SourceItem]:
        return (item for item, _ in self._items("parse"))

    def reuse(self) -> Iterator[tuple[SourceItem, int]]:
        """Each with the id of a document that has its bytes."""
        return self._items("reuse")

    def relabelled(self) -> Iterator[tuple[SourceItem, int]]:
        """Each with its id."""
        return self._items("relabelled")

    def touched(self) -> Iterator[tuple[SourceItem, int]]:
        """Each with its id."""
        return self._items("touched")

    def removed(self) -> Iterator[tuple[str, int]]:
        """Uris and ids."""
        return self._scratch.stream("SELECT uri, document FROM todo WHERE what = 'removed' ORDER BY uri")

    def renames(self) -> Iterator[tuple[str, str]]:
        """New and former uris."""
        return self._scratch.stream(
            "SELECT uri, former FROM todo WHERE what = 'reuse' AND former IS NOT NULL ORDER BY uri"
        )

    def add(self, what: What, uri: str, document: int | None = None, former: str | None = None) -> None:
        self.count[what] += 1
        self._scratch.execute("INSERT INTO todo VALUES (?, ?, ?, ?)", (what, uri, document, former))

    def _items(self, what: What) -> Iterator[tuple[SourceItem, int]]:
        rows = self._scratch.stream(
            "SELECT found.*, document FROM todo JOIN found USING (uri) WHERE what = ? ORDER BY todo.uri", (what,)
        )
        return ((Listed._make(row[:-1]).item(), row[-1]) for row in rows)


def compare(found: Found, known: Known, *, full: bool = False) -> Work:
    """Decide what to do with each document.

    Args:
        full: read every document again, also those that look unchanged or wait in quarantine.
    """
    work = Work(found)
    work.rejected = [one for one in found.rejected if one.uri not in known.tombstones]
    copies = _Copies(found, work)
    for listed, stat in side_by_side(found.documents(), known.documents()):
        work.known += stat is not None
        if listed is None or listed.uri in known.tombstones:
            if stat is not None:
                _absent(stat, found, known, work)
        elif full:
            work.add("parse", listed.uri)
        elif stat is not None:
            _compare_known(listed, stat, work)
        elif (held := known.quarantine.get(listed.uri)) is not None and _waits(listed, held, known.limits):
            work.waiting.append(held)
        else:
            copies.ask(listed)
    copies.answer(known)
    return work


def refuse_mass_removal(work: Work, most: float) -> None:
    """Stop before a refresh that would remove most of an index: more often a source's fault than anybody's wish.

    Args:
        most: share of the index' documents that may go at once.

    Raises:
        ConflictError: more would go; nothing was changed.
    """
    gone = work.count["removed"] - work.renamed - work.buried
    if gone >= FEW_REMOVED and gone > most * work.known:
        raise mass_removal(next(work.removed())[0], work.known, gone)


def mass_removal(first: str, documents: int, gone: int) -> ConflictError:
    """The refusal to remove `gone` of so many documents, `first` among them."""
    return ConflictError(
        f"this refresh would remove {gone:,} of {documents:,} documents",
        where=first,
        hint="look at the sources; `llmops ingest --allow-mass-delete` removes them if that is meant",
        code="mass_delete",
    )


def _absent(stat: DocumentStat, found: Found, known: Known, work: Work) -> None:
    buried = stat.uri in known.tombstones
    if not buried and found.is_hidden(stat.uri):
        work.unchanged += 1
    else:
        work.buried += buried
        work.add("removed", stat.uri, stat.id)


def _compare_known(listed: Listed, stat: DocumentStat, work: Work) -> None:
    if listed[:5] == stat[:5] and not stat.racy:
        work.unchanged += 1
        return
    moved = (listed.size, listed.mtime_ns) != (stat.size, stat.mtime_ns)
    if moved or stat.racy:
        if listed.size != stat.size or sha256_of(listed.root, listed.inside) != stat.sha256:
            work.add("parse", listed.uri)
            return
        if moved or not work.racy(listed.mtime_ns):
            work.add("touched", listed.uri, stat.id)
    if (listed.acl, listed.metadata) != (stat.acl, stat.metadata):
        work.add("relabelled", listed.uri, stat.id)
    else:
        work.unchanged += 1


def _waits(item: Listed, held: Quarantined, limits: str) -> bool:
    same = (item.size, item.mtime_ns, limits) == (held.size, held.mtime_ns, held.limits)
    return same and time.time() < held.retry_at


class _Copies:
    """Tells documents under a new name from new documents, so that they need no parser."""

    def __init__(self, found: Found, work: Work) -> None:
        self._scratch = found.scratch
        self._work = work
        self._asked = 0
        self._sizes = bytearray(_SIZES)
        self._scratch.execute("CREATE TABLE new (uri TEXT PRIMARY KEY) WITHOUT ROWID")

    def ask(self, listed: Listed) -> None:
        """Take note of a document whose uri is new."""
        self._asked += 1
        self._sizes[listed.size % _SIZES] = 1
        self._scratch.execute("INSERT INTO new VALUES (?)", (listed.uri,))

    def answer(self, known: Known) -> None:
        """Say of each what is to be done."""
        if self._asked and self._work.known:
            self._hold(known)
        rows = self._scratch.stream("SELECT found.* FROM new JOIN found USING (uri) ORDER BY uri")
        for listed in map(Listed._make, rows):
            same = self._held(listed) if self._work.known else None
            if same is None:
                self._work.add("parse", listed.uri)
                continue
            document, uri, gone = same
            if gone:
                self._work.renamed += 1
                self._scratch.execute("UPDATE held SET gone = 0 WHERE document = ?", (document,))
            self._work.add("reuse", listed.uri, document, uri if gone else None)

    def _hold(self, known: Known) -> None:
        """Lay the known documents out by what a copy has in common with them, where a new one may be of their size."""
        self._scratch.executemany(
            "INSERT INTO held VALUES (?, ?, ?, ?, 0, ?)",
            (
                (stat.id, stat.size, _suffix(stat.uri), stat.sha256, stat.uri)
                for stat in known.documents()
                if self._sizes[stat.size % _SIZES]
            ),
        )
        self._scratch.execute("UPDATE held SET gone = 1 WHERE uri IN (SELECT uri FROM todo WHERE what = 'removed')")
        self._scratch.execute("CREATE INDEX held_by_shape ON held (size, suffix, sha256, gone DESC, uri)")

    def _held(self, listed: Listed) -> tuple[int, str, int] | None:
        """Id and uri of a known document of the same bytes, and whether it is gone: one that is comes first."""
        shape = (listed.size, _suffix(listed.uri))
        if not self._scratch.query("SELECT 1 FROM held WHERE size = ? AND suffix = ? LIMIT 1", shape):
            return None
        same = self._scratch.query(
            "SELECT document, uri, gone FROM held WHERE size = ? AND suffix = ? AND sha256 = ?"
            " ORDER BY gone DESC, uri LIMIT 1",
            (*shape, sha256_of(listed.root, listed.inside)),
        )
        return same[0] if same else None


def _suffix(uri: str) -> str:
    return PurePosixPath(uri).suffix.lower()
