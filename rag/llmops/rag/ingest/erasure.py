"""Erases documents from an index down to the bytes: every generation, vectors, search terms, free pages, copies.

`delete` only makes documents unfindable; this also rewrites what may still hold their words. Each step may be repeated,
and all of them again after a crash. Knows the index' folder and the mirrors of sources.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmops.rag import lexicon, tombstones
from llmops.rag.arena import Vectors
from llmops.rag.database_postgresql import indexes as shared_indexes
from llmops.rag.database_postgresql import is_postgresql
from llmops.rag.disk import storage_errors
from llmops.rag.facts.derive import drop_unused_replies
from llmops.rag.forgotten import Entry
from llmops.rag.index import places
from llmops.rag.index.sync import StoreSync
from llmops.rag.ingest import removal
from llmops.rag.ingest.compaction import keep_live_vectors, remove_unused_files
from llmops.rag.ingest.recovery import recover
from llmops.rag.kept_vectors import NO_VECTORS, mapped
from llmops.rag.manifest import Manifest
from llmops.rag.sources import mirrors
from llmops.rag.sources.mirror import LEDGER, only_one
from llmops.rag.sources.mirror import erase as erase_from

if TYPE_CHECKING:
    from llmops.core.state import StateConfig

_log = logging.getLogger("llmops.rag.ingest")
_WAIT_S = 600.0
_READERS_S = 15.0
_WORDS = 64
_SHORTEST, _LONGEST = 24, 80
_ENDS = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True)
class Held:
    """What an index holds of some documents. `words`: what only they say, as far as it tells them from all others."""

    entries: tuple[Entry, ...]
    generations: tuple[str, ...]
    words: tuple[str, ...]


def indexes(state: StateConfig) -> list[str]:
    """The names of all indexes of a state folder."""
    if state.sql_url is not None and is_postgresql(state.sql_url):
        return shared_indexes(state.sql_url)
    return sorted(path.parent.name for path in (state.root / "index").glob("*/manifest.db"))


def look_up(state: StateConfig, name: str, uris: Sequence[str]) -> Held:
    """What an index holds of these documents, and of copies of their bytes under other names."""
    with closing(Manifest.open(state, name)) as manifest:
        rows = [row for uri in uris for row in manifest.query(f"{_DOCUMENTS} WHERE d.uri = ?", (uri,))]
        laid = tombstones.tombstones(manifest)
        deleted = [laid[uri] for uri in uris if uri in laid and laid[uri].sha256 is not None]
        hashes = {(row[1], row[2]) for row in rows} | {(one.size, one.sha256) for one in deleted}
        rows += [row for pair in hashes for row in manifest.query(f"{_DOCUMENTS} WHERE size = ? AND sha256 = ?", pair)]
        entries = {Entry(row[0], row[1], row[2]) for row in rows}
        entries |= {Entry(one.uri, one.size, one.sha256) for one in deleted}
        words = _telling(manifest, {row[3] for row in rows})
        return Held(
            tuple(sorted(entries, key=lambda one: one.uri)), tuple(sorted({row[4] for row in rows})), tuple(words)
        )


def erase(state: StateConfig, name: str, uris: Sequence[str], generations: Iterable[str]) -> bool:
    """Erase documents from an index.

    Args:
        generations: those that held them before anything was erased.

    Returns:
        Whether free pages are overwritten too: a reader that does not let go of an old state keeps them from it.

    Raises:
        ConflictError: a refresh has been running for ten minutes.
    """
    with Manifest.writing(state, name, wait_s=_WAIT_S) as manifest:
        doubtful = recover(manifest)
        removal.carry_out(manifest, removal.of_uris(manifest, uris), doubtful)
        with manifest.transaction():
            manifest.db.executemany("DELETE FROM quarantine WHERE uri = ?", [(uri,) for uri in uris])
        tombstones.lift(manifest, uris)
        keep_live_vectors(manifest)
        drop_unused_replies(manifest)
        for generation in generations:
            _rewrite(manifest, generation)
        remove_unused_files(manifest, grace_s=0.0)
        rewritten = manifest.db.rewrite(_READERS_S)
        if not rewritten:
            _log.warning("%s: a reader holds an old state", manifest.where)
        return rewritten


def erase_copies(state: StateConfig, uris: Sequence[str]) -> list[str]:
    """Erase documents from the copies of remote sources; gives the copies that held one."""
    touched = []
    for folder in sorted(mirrors(state).glob("*/")):
        with storage_errors(folder), only_one(folder):
            if erase_from(folder, uris):
                touched.append(folder.name)
    return touched


def copied(state: StateConfig, uris: Sequence[str]) -> bool:
    """Whether a copy of a remote source holds one of these documents."""
    for ledger in mirrors(state).glob(f"*/{LEDGER}"):
        with closing(sqlite3.connect(ledger)) as connection:
            for uri in uris:
                if connection.execute("SELECT 1 FROM documents WHERE uri = ?", (uri,)).fetchone():
                    return True
    return False


_DOCUMENTS = (
    "SELECT d.uri, d.size, d.sha256, d.id, g.name FROM documents d JOIN generations g ON g.number = d.generation"
)


def _telling(manifest: Manifest, documents: set[int]) -> list[str]:
    """Some lines of these documents that stand in no other: by them quotations are found."""
    texts = [
        row[0] for one in documents for row in manifest.query("SELECT text FROM chunks WHERE document = ?", (one,))
    ]
    lines = dict.fromkeys(line for text in texts for line in _lines(text))
    step = max(1, len(lines) // _WORDS)
    words = list(lines)[::step][:_WORDS]
    if not words:
        return []
    for document, text in manifest.query("SELECT document, text FROM chunks"):
        if document not in documents:
            words = [word for word in words if word not in text]
    return words


def _lines(text: str) -> Iterator[str]:
    """Pieces of lines, long enough to tell, of signs that every encoding of JSON leaves as they are."""
    for line in text.splitlines():
        piece = _ENDS.sub("", line.partition('"')[0].partition("\\")[0])[:_LONGEST].rstrip()
        if len(piece) >= _SHORTEST:
            yield piece


def _rewrite(manifest: Manifest, name: str) -> None:
    """Make search terms and the vector store of a generation anew from what it still holds."""
    number = manifest.generation(name)
    with manifest.transaction():
        lexicon.rebuild(manifest, number)
    sync = StoreSync(manifest, number, name)
    try:
        if places.place_of(manifest, name).exists():
            sync.rebuild(_vectors(manifest, number), None)
            places.follow(manifest, name, manifest.head(number))
    finally:
        sync.close()


def _vectors(manifest: Manifest, number: int) -> Vectors:
    record = manifest.arena(manifest.settings(number)["embedder"])
    return NO_VECTORS if record is None else mapped(manifest, record)
