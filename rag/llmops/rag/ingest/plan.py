"""What a refresh has to do: documents as they lie now against documents as the manifest holds them.

Compares by size and time, and reads (hashes) a file only where those may deceive or where it may be a known document
under a new name. Knows files and manifest; parses nothing, writes nothing, and imports nothing heavy: it is most of
an unchanged refresh.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from llmops.core.errors import ConflictError
from llmops.core.identity import EVERYONE
from llmops.core.state import StateConfig
from llmops.rag.config import Source
from llmops.rag.document import Rejected, SourceItem
from llmops.rag.forgotten import Forgotten
from llmops.rag.manifest import Quarantined
from llmops.rag.records import DocumentStat, acl_json, metadata_json
from llmops.rag.sources import documents
from llmops.rag.tombstones import Tombstone

RACY_NS = 2_000_000_000
"""A file changed within 2 s before a scan may change again unseen: some file systems keep whole seconds only."""

FEW_REMOVED = 20
"""So many documents may always go at once."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the manifest holds before the refresh. `tombstones`: uris that stay out, though their source has them."""

    documents: Mapping[str, DocumentStat]
    quarantine: Mapping[str, Quarantined]
    limits: str
    tombstones: Mapping[str, Tombstone] = field(default_factory=dict)


@dataclass
class Work:
    """A comparison's result.

    Attributes:
        parse: documents to read, new or changed.
        reuse: documents whose very bytes the manifest holds already, under the id of that document.
        renamed: of `reuse`, those whose former place is empty now.
        touched: the same bytes under a new time; only the record of that changes.
        relabelled: the same bytes under another access list or other metadata.
        removed: documents that are gone, or cannot be read any more.
        waiting: in quarantine and not tried again yet.
    """

    parse: list[SourceItem] = field(default_factory=list)
    reuse: list[tuple[SourceItem, int]] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    touched: list[SourceItem] = field(default_factory=list)
    relabelled: list[SourceItem] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    waiting: list[Quarantined] = field(default_factory=list)
    unchanged: int = 0
    scanned_ns: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing that a reader could see has to change."""
        return not (self.parse or self.reuse or self.relabelled or self.removed)

    def racy(self, item: SourceItem) -> bool:
        """Whether a later change of this file may leave its size and time as they are."""
        return item.mtime_ns >= self.scanned_ns - RACY_NS


@dataclass(frozen=True, slots=True)
class Found:
    """One pass over all sources."""

    items: Mapping[str, SourceItem]
    rejected: tuple[Rejected, ...]
    scanned_ns: int

    def gone(self, absent: Iterable[str], tombstones: Collection[str]) -> list[str]:
        """Of absent documents those that are known to be gone: the rest lies in folders that could not be listed."""
        hidden = tuple(r.uri.rstrip("/") + "/" for r in self.rejected if r.subtree)
        return [uri for uri in absent if uri in tombstones or not (hidden and uri.startswith(hidden))]


def look(sources: Iterable[Source], state: StateConfig, tombstones: Mapping[str, Tombstone] | None = None) -> Found:
    """List every document of every source but the forgotten ones; what remote ones changed is fetched.

    A document with the very bytes of a deleted one is refused, and says whose they are.

    A document that two sources hold may be read only by those who may read it through both, and has the metadata of
    both, the later source's first: naming a private folder within a public one makes it private, in whatever order.

    Raises:
        NotFoundError: a source is not there; nothing is taken for deleted.
        UnavailableError: a remote one does not answer; nothing is taken for deleted.
    """
    began = time.time_ns()
    items: dict[str, SourceItem] = {}
    rejected: dict[str, Rejected] = {}
    forgotten = Forgotten.read(state)
    for source in sources:
        for found in documents(source, state, forgotten):
            if isinstance(found, Rejected):
                if not forgotten.names(found.uri):
                    rejected[found.uri] = found
            elif not forgotten.holds(found):
                before = items.get(found.uri)
                items[found.uri] = found if before is None else _both(before, found)
    for refused in _deleted_elsewhere(items.values(), tombstones or {}):
        del items[refused.uri]
        rejected[refused.uri] = refused
    return Found(items, tuple(r for uri, r in rejected.items() if uri not in items), began)


def compare(found: Found, known: Known, *, full: bool = False) -> Work:
    """Decide what to do with each document.

    Args:
        full: read every document again, also those that look unchanged or wait in quarantine.
    """
    work = Work(scanned_ns=found.scanned_ns)
    work.rejected = [one for one in found.rejected if one.uri not in known.tombstones]
    new: list[SourceItem] = []
    items = {uri: item for uri, item in found.items.items() if uri not in known.tombstones}
    for uri, item in items.items():
        stat = known.documents.get(uri)
        if full:
            work.parse.append(item)
        elif stat is not None:
            _compare_known(item, stat, work)
        elif (held := known.quarantine.get(uri)) is not None and _waits(item, held, known.limits):
            work.waiting.append(held)
        else:
            new.append(item)
    absent = [uri for uri in known.documents if uri not in items]
    work.removed = found.gone(absent, known.tombstones)
    work.unchanged += len(absent) - len(work.removed)
    _find_copies(new, known, work)
    return work


def refuse_mass_removal(work: Work, known: Known, most: float) -> None:
    """Stop before a refresh that would remove most of an index: more often a source's fault than anybody's wish.

    Args:
        most: share of the index' documents that may go at once.

    Raises:
        ConflictError: more would go; nothing was changed.
    """
    gone = len(work.removed) - len(work.renamed) - sum(1 for uri in work.removed if uri in known.tombstones)
    if gone >= FEW_REMOVED and gone > most * len(known.documents):
        raise mass_removal(work.removed, len(known.documents), gone)


def mass_removal(removed: Collection[str], documents: int, gone: int | None = None) -> ConflictError:
    """The refusal to remove `gone` (default: all of `removed`) of so many documents."""
    return ConflictError(
        f"this refresh would remove {len(removed) if gone is None else gone:,} of {documents:,} documents",
        where=min(removed),
        hint="look at the sources; `llmops ingest --allow-mass-delete` removes them if that is meant",
        code="mass_delete",
    )


def sha256_of(path: str) -> str | None:
    """The hash of a file's bytes, or None where it cannot be read now."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as the scan gave it
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None  # parsing it will say why


def _deleted_elsewhere(items: Iterable[SourceItem], tombstones: Mapping[str, Tombstone]) -> list[Rejected]:
    """The documents that have the bytes of one that was deleted under another name."""
    deleted: dict[tuple[Any, Any], str] = {(one.size, one.sha256): one.uri for one in tombstones.values() if one.sha256}
    sizes = {size for size, _ in deleted}
    refused = []
    for item in items:
        if item.size not in sizes or item.uri in tombstones:
            continue
        former = deleted.get((item.size, sha256_of(item.path)))
        if former is not None:
            reason = f"the same bytes were deleted as {former}; `llmops ingest restore` takes them back"
            refused.append(Rejected(item.uri, reason, "deleted"))
    return refused


def _both(first: SourceItem, second: SourceItem) -> SourceItem:
    ours, theirs = set(first.acl), set(second.acl)
    acl = theirs if EVERYONE in ours else ours if EVERYONE in theirs else ours & theirs
    return replace(second, acl=tuple(sorted(acl)), metadata={**first.metadata, **second.metadata})


def _compare_known(item: SourceItem, stat: DocumentStat, work: Work) -> None:
    same_stat = item.size == stat.size and item.mtime_ns == stat.mtime_ns
    if not (same_stat and not stat.racy):
        if item.size != stat.size or sha256_of(item.path) != stat.sha256:
            work.parse.append(item)
            return
        work.touched.append(item)
    if labels(item) != (stat.acl, stat.metadata):
        work.relabelled.append(item)
    else:
        work.unchanged += 1


def labels(item: SourceItem) -> tuple[str, str]:
    """Access list and metadata as the manifest keeps them."""
    return acl_json(item.acl), metadata_json(item.metadata)


def _waits(item: SourceItem, held: Quarantined, limits: str) -> bool:
    same = (item.size, item.mtime_ns, limits) == (held.size, held.mtime_ns, held.limits)
    return same and time.time() < held.retry_at


def _find_copies(new: list[SourceItem], known: Known, work: Work) -> None:
    """Tell documents under a new name from new documents, so that they need no parser."""
    by_shape: defaultdict[tuple[int, str], list[DocumentStat]] = defaultdict(list)
    if new:
        for stat in known.documents.values():
            by_shape[stat.size, _suffix(stat.uri)].append(stat)
    gone = set(work.removed)
    for item in new:
        candidates = by_shape.get((item.size, _suffix(item.uri)), [])
        sha256 = sha256_of(item.path) if candidates else None
        same = [stat for stat in candidates if stat.sha256 == sha256]
        if not same:
            work.parse.append(item)
            continue
        former = next((stat for stat in same if stat.uri in gone), None)
        if former is not None:
            gone.discard(former.uri)
            work.renamed[item.uri] = former.uri
        work.reuse.append((item, (former or same[0]).id))


def _suffix(uri: str) -> str:
    return PurePosixPath(uri).suffix.lower()
