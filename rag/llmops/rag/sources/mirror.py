"""A copy on this machine of what a remote source holds, brought up to date by what the source says has changed.

A document is fetched when its *signal* (an ETag, a blob's id, a row's hash) is another than that of the copy. Each
fetched document is durable before it is recorded, so a refresh that is killed goes on where it was. What a complete
listing no longer names is dropped; a listing that ends in an error drops nothing. Several indexes, and plans, may share
the mirror of one source: one process at a time brings it up to date, and no copy is removed while another still reads
what it was told of. Knows files and its own ledger; no network.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED as FIRST
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from llmops.core.errors import LlmopsError, UnavailableError
from llmops.core.files import exclusive_lock, sync_directory, write_atomic
from llmops.rag.disk import storage_errors
from llmops.rag.document import Place, RefusedDocumentError, Rejected, SourceItem
from llmops.rag.sources.files import bad_name, is_utf8

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    uri TEXT PRIMARY KEY, signal TEXT NOT NULL, file TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    acl TEXT NOT NULL, metadata TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS documents_by_file ON documents (file);
CREATE TEMP TABLE seen (uri TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_KEPT = "SELECT uri, signal, file, size, mtime_ns, acl, metadata FROM documents"
_log = logging.getLogger("llmops.rag.sources")
LEDGER = "ledger.db"
_READERS = "readers"
_WAIT_S = 600.0
_AT_ONCE = 8
_HOPELESS = 10
"""Fetches that fail in a row, with none that succeeds, before the source counts as down."""


def only_one(folder: Path) -> AbstractContextManager[None]:
    """Held while a mirror is brought up to date, or something is erased from it.

    Raises:
        ConflictError: somebody else has been at it for ten minutes.
    """
    return exclusive_lock(folder / "lock", what="reading this source", wait_s=_WAIT_S)


@contextmanager
def keep(folder: Path) -> Iterator[None]:
    """While it is held, no copy is removed, but those that are to be forgotten; enter it under `only_one`."""
    with (folder / _READERS).open("ab") as readers:
        fcntl.flock(readers, fcntl.LOCK_SH)
        yield


def erase(folder: Path, uris: Sequence[str]) -> bool:
    """Erase documents from a mirror, whoever reads it, with older contents of theirs; whether it held one of them.

    A repository's copy goes as a whole: its objects hold every file. It is fetched again. Call it under `only_one`.
    """
    ledger = folder / LEDGER
    if not ledger.exists():
        return False
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        known = [uri for uri in uris if connection.execute("SELECT 1 FROM documents WHERE uri = ?", (uri,)).fetchone()]
        begin = tuple(f"{mark}{_stem(uri)}" for uri in uris for mark in ("", "."))  # with a dot: half written
        files = [file for file in (folder / "files").glob("*") if file.name.startswith(begin)]
        for file in files:  # before its row, by which a rerun finds it
            file.unlink(missing_ok=True)
        if known or files:
            shutil.rmtree(folder / "repository", ignore_errors=True)
        connection.executemany("DELETE FROM documents WHERE uri = ?", [(uri,) for uri in uris])
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return bool(known or files)


def _stem(uri: str) -> str:
    """How the names of a document's copies begin; what follows is of their contents."""
    return sha256(uri.encode(errors="surrogatepass")).hexdigest()[:32] + "-"


class Gone(Exception):
    """The source says that this document is no more."""


class Same(Exception):
    """The source says that this document is as it was fetched last."""


@dataclass(frozen=True)
class Content:
    """What was fetched: bytes, the extension that says what they are, and the signal they came with."""

    data: bytes
    extension: str
    signal: str


@dataclass(frozen=True)
class Listed:
    """One document that the source holds now.

    Args:
        current: whether a copy with this signal is the document as it is now; False where only fetching can tell.
        fetch: gets it, given the signal it was fetched with last (None: never); may raise `Gone` or `Same`.
    """

    uri: str
    current: Callable[[str], bool]
    fetch: Callable[[str | None], Content]
    acl: tuple[str, ...] = ("everyone",)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kept:
    signal: str
    file: str
    size: int
    mtime_ns: int
    acl: str
    metadata: str


class Mirror:
    """The copy of one source; one process at a time (`only_one`).

    Args:
        folder: for this source alone.
        at_once: documents fetched side by side.
        refused: says of a uri that no copy may be kept: it counts as not listed.
        unwanted: says the same of a document's bytes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        at_once: int = _AT_ONCE,
        refused: Callable[[str], bool] = lambda _: False,
        unwanted: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        self.folder = folder
        self._refused = refused
        self._unwanted = unwanted
        self._at_once = at_once
        with storage_errors(folder):
            (folder / "files").mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(folder / LEDGER, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def fact(self, name: str) -> str | None:
        """Something the source remembers between refreshes, such as the commit it was brought up to."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def forget_fact(self, name: str) -> None:
        self._db.execute("DELETE FROM facts WHERE name = ?", (name,))

    def is_whole(self) -> bool:
        """Whether every copy is still there: they may be deleted, and are fetched again then."""
        return all(self._is_whole(_Kept(*row)) for _, *row in self._db.execute(_KEPT))

    def items(self) -> Iterator[SourceItem]:
        """What was fetched, in the order of the uris."""
        for uri, *row in self._db.execute(f"{_KEPT} ORDER BY uri"):
            kept = _Kept(*row)
            place = Place(str(self.folder / "files"), kept.file)
            groups = tuple(json.loads(kept.acl))
            path = f"{place.root}/{kept.file}"
            yield SourceItem(uri, path, place, kept.size, kept.mtime_ns, groups, json.loads(kept.metadata))

    def update(self, listing: Iterable[Listed]) -> Iterator[Rejected]:
        """Fetch what changed, and drop what is gone once the listing came to its end.

        Gives the documents that could not be fetched and of which there is no older copy; one with an older copy keeps
        it, for whoever may read it now, and is tried again next time. What is no document any more keeps none.

        Raises:
            UnavailableError: the source is down: nothing is dropped, and what was fetched stays for the next time.
        """
        self._db.execute("DELETE FROM seen")
        failures = _Failures()
        with ThreadPoolExecutor(self._at_once) as pool, storage_errors(self.folder):
            running: dict[Future[Content], Listed] = {}
            try:
                for listed in listing:
                    if not is_utf8(listed.uri):
                        yield bad_name(listed.uri)
                        continue
                    if self._refused(listed.uri) or not self._is_first(listed.uri):
                        continue
                    before = self._kept(listed.uri)
                    signal = before.signal if before is not None and self._is_whole(before) else None
                    if before is not None and signal is not None and listed.current(signal):
                        self._relabel(listed, before)
                        continue
                    running[pool.submit(listed.fetch, signal)] = listed
                    if len(running) >= self._at_once:
                        yield from self._collect(running, failures)
                while running:
                    yield from self._collect(running, failures)
            finally:
                for future in running:
                    future.cancel()
            self._db.execute("DELETE FROM documents WHERE uri NOT IN (SELECT uri FROM seen)")
        self._sweep()

    def _collect(self, running: dict[Future[Content], Listed], failures: _Failures) -> Iterator[Rejected]:
        done, _ = wait(running, return_when=FIRST)
        for future in done:
            listed = running.pop(future)
            before = self._kept(listed.uri)
            try:
                content = future.result()
                if self._unwanted(content.data):
                    raise Gone
                self._keep(listed, content)
                failures.none()
            except Same:
                failures.none()
                assert before is not None
                self._relabel(listed, before)
            except Gone:
                failures.none()
                self._db.execute("DELETE FROM seen WHERE uri = ?", (listed.uri,))
            except LlmopsError as error:
                if _is_verdict(error):
                    failures.none()
                    self._db.execute("DELETE FROM seen WHERE uri = ?", (listed.uri,))
                    yield Rejected(listed.uri, error.what, error.error_code)
                    continue
                failures.one(error)
                if before is None:
                    yield Rejected(listed.uri, error.what, "unreachable")
                    continue
                _log.warning("%s could not be fetched, the last copy stays: %s", listed.uri, error)
                self._relabel(listed, before)

    def _is_first(self, uri: str) -> bool:
        """Whether the listing names a document for the first time."""
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (uri,)).rowcount > 0

    def _kept(self, uri: str) -> _Kept | None:
        row = self._db.execute(f"{_KEPT} WHERE uri = ?", (uri,)).fetchone()
        return None if row is None else _Kept(*row[1:])

    def _is_whole(self, kept: _Kept) -> bool:
        try:
            return (self.folder / "files" / kept.file).stat().st_size == kept.size
        except OSError:
            return False

    def _keep(self, listed: Listed, content: Content) -> None:
        name = _stem(listed.uri) + sha256(content.data).hexdigest()[:16]
        file = self.folder / "files" / (name + content.extension)
        write_atomic(file, content.data)
        status = file.stat()
        self._db.execute(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(listed.uri, content.signal, file.name, status.st_size, status.st_mtime_ns, json.dumps(listed.acl)),
                json.dumps(dict(listed.metadata), sort_keys=True),
            ),
        )

    def _relabel(self, listed: Listed, before: _Kept) -> None:
        """The same bytes, perhaps for other readers or with other facts."""
        acl, metadata = json.dumps(listed.acl), json.dumps(dict(listed.metadata), sort_keys=True)
        if (acl, metadata) != (before.acl, before.metadata):
            self._db.execute("UPDATE documents SET acl = ?, metadata = ? WHERE uri = ?", (acl, metadata, listed.uri))

    def _sweep(self) -> None:
        """Remove files that no row names: old contents, and what a killed refresh left. Where somebody still reads the
        old ones, the next time does it."""
        with (self.folder / _READERS).open("ab") as readers:
            try:
                fcntl.flock(readers, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            self._remove_unnamed()

    def _remove_unnamed(self) -> None:
        with os.scandir(self.folder / "files") as entries:
            for entry in entries:
                if not self._db.execute("SELECT 1 FROM documents WHERE file = ?", (entry.name,)).fetchone():
                    Path(entry.path).unlink(missing_ok=True)
        sync_directory(self.folder / "files")


def _is_verdict(error: LlmopsError) -> bool:
    """Whether the source did answer, and what it holds now is not to be read: what it held before counts no more."""
    return isinstance(error, RefusedDocumentError) or error.error_code == "too_large"


class _Failures:
    """Counts fetches that fail in a row; a source that answers nothing is down, not empty."""

    def __init__(self) -> None:
        self._row = 0
        self._any_good = False

    def none(self) -> None:
        self._any_good = True
        self._row = 0

    def one(self, error: LlmopsError) -> None:
        self._row += 1
        if self._row >= _HOPELESS and not self._any_good:
            raise UnavailableError(
                f"the source answers nothing: {error.what}", where=error.where, hint="nothing was removed; run again"
            ) from error
