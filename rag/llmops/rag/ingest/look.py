"""What all sources hold now, kept in a temporary database: memory does not grow with the documents.

Knows where documents come from and in which order they are told: by uri, as a manifest tells those that it holds, so
that the two can be read side by side. Decides nothing about them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from llmops.core.files import sha256_of
from llmops.core.identity import EVERYONE
from llmops.core.state import StateConfig
from llmops.rag.config import Source
from llmops.rag.database import SqliteFile
from llmops.rag.document import Place, Rejected, SourceItem
from llmops.rag.forgotten import Forgotten
from llmops.rag.records import DocumentStat, acl_json, metadata_json
from llmops.rag.sources import documents
from llmops.rag.tombstones import Tombstone

_SCHEMA = """
CREATE TABLE found (
    uri TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, acl TEXT NOT NULL, metadata TEXT NOT NULL,
    path TEXT NOT NULL, root TEXT NOT NULL, inside TEXT NOT NULL) WITHOUT ROWID
"""
_TAKE = (
    "INSERT INTO found VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (uri) DO UPDATE SET size = excluded.size,"
    " mtime_ns = excluded.mtime_ns, acl = both_acls(acl, excluded.acl),"
    " metadata = both_metadata(metadata, excluded.metadata), path = excluded.path,"
    " root = excluded.root, inside = excluded.inside"
)
_BATCH = 200

Left = TypeVar("Left", bound=tuple[Any, ...])
Right = TypeVar("Right", bound=tuple[Any, ...])


class Listed(NamedTuple):
    """A document as it was found; access list and metadata as the manifest keeps them."""

    uri: str
    size: int
    mtime_ns: int
    acl: str
    metadata: str
    path: str
    root: str
    inside: str

    def item(self) -> SourceItem:
        place, acl = Place(self.root, self.inside), tuple(json.loads(self.acl))
        return SourceItem(self.uri, self.path, place, self.size, self.mtime_ns, acl, json.loads(self.metadata))


class Found:
    """One pass over all sources; close it: until then nobody removes the copies of remote documents.

    Attributes:
        scratch: the temporary database, with room for what a comparison finds.
        scanned_ns: when the pass began.
    """

    def __init__(self, scratch: SqliteFile, rejected: Mapping[str, Rejected], scanned_ns: int, held: ExitStack) -> None:
        self.scratch = scratch
        self._held = held
        self.rejected = tuple(one for uri, one in rejected.items() if not _has(scratch, uri))
        self.scanned_ns = scanned_ns
        self._hidden = tuple(one.uri.rstrip("/") + "/" for one in self.rejected if one.subtree)

    def __enter__(self) -> Found:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._held.close()
        self.scratch.close()

    def documents(self) -> Iterator[Listed]:
        """All of them, in the order of their uris."""
        return map(Listed._make, self.scratch.stream("SELECT * FROM found ORDER BY uri"))

    def is_hidden(self, uri: str) -> bool:
        """Whether an absent document lies in a folder that could not be listed: then it is not known to be gone."""
        return bool(self._hidden) and uri.startswith(self._hidden)


def look(
    sources: Iterable[Source],
    state: StateConfig,
    tombstones: Mapping[str, Tombstone] | None = None,
    known: Callable[[str], DocumentStat | None] = lambda _: None,
) -> Found:
    """List every document of every source but the forgotten ones; what remote ones changed is fetched.

    A document with the very bytes of a deleted one is refused, and says whose they are.

    A document that two sources hold may be read only by those who may read it through both, and has the metadata of
    both, the later source's first: naming a private folder within a public one makes it private, in whatever order.

    Args:
        known: what an index holds of a document: one that lies there unchanged is not read to tell whose bytes it has.

    Raises:
        NotFoundError: a source is not there; nothing is taken for deleted.
        UnavailableError: a remote one does not answer; nothing is taken for deleted.
        StorageError: the disk of temporary files is full.
    """
    began = time.time_ns()
    rejected: dict[str, Rejected] = {}
    forgotten = Forgotten.read(state)
    scratch = SqliteFile.temporary(_SCHEMA, {"both_acls": _both_acls, "both_metadata": _both_metadata})
    held, hashes = ExitStack(), _Hashes(known, tombstones or {})
    try:
        for source in sources:
            rows = _listed(documents(source, state, forgotten, held), forgotten, rejected, hashes)
            while some := list(islice(rows, _BATCH)):
                scratch.executemany(_TAKE, some)
        for refused in _deleted_elsewhere(scratch, tombstones or {}, hashes):
            scratch.execute("DELETE FROM found WHERE uri = ?", (refused.uri,))
            rejected[refused.uri] = refused
        return Found(scratch, rejected, began, held)
    except BaseException:
        held.close()
        scratch.close()
        raise


def side_by_side(left: Iterable[Left], right: Iterable[Right]) -> Iterator[tuple[Left | None, Right | None]]:
    """Pair rows that begin with the same uri, of two lists in the order of theirs; None where one has none."""
    ours, theirs = iter(left), iter(right)
    one, two = next(ours, None), next(theirs, None)
    while one is not None or two is not None:
        if two is None or (one is not None and one[0] < two[0]):
            yield one, None
            one = next(ours, None)
        elif one is None or two[0] < one[0]:
            yield None, two
            two = next(theirs, None)
        else:
            yield one, two
            one, two = next(ours, None), next(theirs, None)


def _listed(
    found: Iterable[SourceItem | Rejected], forgotten: Forgotten, rejected: dict[str, Rejected], hashes: _Hashes
) -> Iterator[Listed]:
    acl: tuple[str, ...] | None = None
    metadata: Mapping[str, Any] | None = None
    written = ("", "")
    for one in found:
        if isinstance(one, Rejected):
            if not forgotten.names(one.uri):
                rejected[one.uri] = one
        elif not forgotten.holds(one, hashes.of_item):
            if one.acl is not acl or one.metadata is not metadata:  # most documents of a source share both
                acl, metadata = one.acl, one.metadata
                written = (acl_json(acl), metadata_json(metadata))
            yield Listed(one.uri, one.size, one.mtime_ns, *written, one.path, one.place.root, one.place.inside)


class _Hashes:
    """The hashes of files' bytes, those of unchanged documents without reading them."""

    def __init__(self, known: Callable[[str], DocumentStat | None], out: Collection[str]) -> None:
        self._known = known
        self._out = out

    def of_item(self, item: SourceItem) -> str | None:
        if item.uri in self._out:
            return None  # it stays out by its tombstone, whatever it holds
        return self.of(item.uri, item.size, item.mtime_ns, item.place)

    def of(self, uri: str, size: int, mtime_ns: int, place: Place) -> str | None:
        stat = self._known(uri)
        if stat is not None and (stat.size, stat.mtime_ns, stat.racy) == (size, mtime_ns, False) and stat.sha256:
            return stat.sha256
        return sha256_of(place.root, place.inside)


def _deleted_elsewhere(scratch: SqliteFile, tombstones: Mapping[str, Tombstone], hashes: _Hashes) -> list[Rejected]:
    """The documents that have the bytes of one that was deleted under another name."""
    deleted: dict[tuple[Any, Any], str] = {(one.size, one.sha256): one.uri for one in tombstones.values() if one.sha256}
    sizes = {size for size, _ in deleted}
    refused = []
    query = "SELECT uri, size, mtime_ns, root, inside FROM found"
    for uri, size, mtime_ns, *place in scratch.stream(query) if sizes else ():
        if size not in sizes or uri in tombstones:
            continue
        former = deleted.get((size, hashes.of(uri, size, mtime_ns, Place(*place))))
        if former is not None:
            reason = f"the same bytes were deleted as {former}; `llmops ingest restore` takes them back"
            refused.append(Rejected(uri, reason, "deleted"))
    return refused


def _has(scratch: SqliteFile, uri: str) -> bool:
    return bool(scratch.query("SELECT 1 FROM found WHERE uri = ?", (uri,)))


def _both_acls(first: str, second: str) -> str:
    ours, theirs = set(json.loads(first)), set(json.loads(second))
    return acl_json(theirs if EVERYONE in ours else ours if EVERYONE in theirs else ours & theirs)


def _both_metadata(first: str, second: str) -> str:
    return metadata_json({**json.loads(first), **json.loads(second)})
