"""What was forgotten for good: hashes of documents that no source may bring back into any index of a state folder.

One line a document, appended and synced before anything is erased; one row where the state is in PostgreSQL, for all
machines that share it. It holds the SHA-256 of the document's uri and of its bytes, so that neither its name nor its
words stay, and a copy under another name is known too.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256

from llmops.core.errors import IntegrityError
from llmops.core.files import sync_directory
from llmops.core.state import StateConfig
from llmops.rag.database_postgresql import Place, PostgresqlSchema, is_postgresql
from llmops.rag.disk import storage_errors
from llmops.rag.document import SourceItem

FILE_NAME = "forgotten.jsonl"
_PLACE = Place("llmops_forgotten", "what llmops must not take up again, as hashes")
_VERSION = 1
_SCHEMA = """CREATE TABLE forgotten (uri TEXT NOT NULL, size INTEGER, sha256 TEXT, at REAL NOT NULL)"""

_Hashes = tuple[str, int | None, str | None]


def uri_hash(uri: str) -> str:
    return sha256(uri.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Forgotten:
    """The list as it is now. `contents`: the hashes of documents' bytes, by their size."""

    uris: frozenset[str] = frozenset()
    contents: dict[int, set[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, state: StateConfig) -> Forgotten:
        """Read the list of a state folder; half a line at its end was never acknowledged.

        Raises:
            IntegrityError: another line cannot be read: a refresh that ignored it could bring a document back.
        """
        uris: set[str] = set()
        contents: dict[int, set[str]] = {}
        for uri, size, content in {*_shared(state), *_in_file(state)}:
            uris.add(uri)
            if size is not None and content is not None:
                contents.setdefault(size, set()).add(content)
        return cls(frozenset(uris), contents)

    def names(self, uri: str) -> bool:
        """Whether the document of this uri was forgotten."""
        return bool(self.uris) and uri_hash(uri) in self.uris

    def has(self, data: bytes) -> bool:
        """Whether these are the bytes of a forgotten document."""
        known = self.contents.get(len(data))
        return known is not None and sha256(data).hexdigest() in known

    def lists(self, entry: Entry) -> bool:
        """Whether the list says all that this entry would."""
        if entry.size is None:
            return self.names(entry.uri)
        return self.names(entry.uri) and entry.sha256 in self.contents.get(entry.size, ())

    def holds(self, item: SourceItem, hashed: Callable[[SourceItem], str | None]) -> bool:
        """Whether this is a forgotten document, by its name or by its bytes, which are hashed where the size is one."""
        if self.names(item.uri):
            return True
        known = self.contents.get(item.size)
        return known is not None and hashed(item) in known


NOTHING = Forgotten()


@dataclass(frozen=True, slots=True)
class Entry:
    """One document: its uri, and size and SHA-256 of its bytes where an index held it."""

    uri: str
    size: int | None = None
    sha256: str | None = None


def add(state: StateConfig, entries: Iterable[Entry]) -> None:
    """Append documents, durably; one that is on the list already is not written again."""
    known = Forgotten.read(state)
    fresh = [
        one
        for one in entries
        if not known.names(one.uri) or one.sha256 not in known.contents.get(one.size or 0, {None})
    ]
    if not fresh:
        return
    if is_postgresql(state.sql_url):
        _share(state, [(uri_hash(one.uri), one.size, one.sha256) for one in fresh])
        return
    _append(state, [(uri_hash(one.uri), one.size, one.sha256) for one in fresh])


def carry_over(source: StateConfig, target: StateConfig) -> None:
    """Make what was forgotten under one state forgotten under another, durably; what that knows stays."""
    fresh = {*_shared(source), *_in_file(source)} - {*_shared(target), *_in_file(target)}
    if is_postgresql(target.sql_url):
        fresh |= set(_in_file(target)) - set(_shared(target))
    if fresh and is_postgresql(target.sql_url):
        _share(target, fresh)
    elif fresh:
        _append(target, fresh)


def _in_file(state: StateConfig) -> Iterator[_Hashes]:
    path = state.root / FILE_NAME
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            entry = json.loads(line)
            yield entry["uri"], entry["size"], entry["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            hint = "put the line right from a backup: without it a forgotten document may come back"
            raise IntegrityError(
                "the list of what was forgotten is damaged", where=f"{path}:{number}", hint=hint
            ) from error


def _append(state: StateConfig, hashes: Iterable[_Hashes]) -> None:
    path = state.root / FILE_NAME
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            whole = os.pread(descriptor, os.fstat(descriptor).st_size, 0).rpartition(b"\n")
            end = len(whole[0]) + len(whole[1])
            os.ftruncate(descriptor, end)  # half a line of a crash
            lines = [{"uri": uri, "size": size, "sha256": content, "at": time.time()} for uri, size, content in hashes]
            os.pwrite(descriptor, b"".join(json.dumps(line).encode() + b"\n" for line in lines), end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(path.parent)


def _shared(state: StateConfig) -> list[_Hashes]:
    if state.sql_url is None or not is_postgresql(state.sql_url):
        return []
    database = PostgresqlSchema.open(state.sql_url, _PLACE, "", _VERSION)
    if database is None:
        return []
    with closing(database):
        return [(row[0], row[1], row[2]) for row in database.query("SELECT uri, size, sha256 FROM forgotten")]


def _share(state: StateConfig, hashes: Iterable[_Hashes]) -> None:
    assert state.sql_url is not None
    database = PostgresqlSchema.open(state.sql_url, _PLACE, _SCHEMA, _VERSION)
    assert database is not None
    with closing(database), database.transaction():
        rows = [(*one, time.time()) for one in hashes]
        database.executemany("INSERT INTO forgotten VALUES (?, ?, ?, ?)", rows)
