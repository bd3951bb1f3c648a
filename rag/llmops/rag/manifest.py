"""What is in an index, durably: the one record that decides; the vector store and the lexical index follow it.

Knows generations, heads, intents, the quarantine and where vectors lie, as tables of a `database`. `records` holds the
rows of documents and chunks. It knows no vector, no embedder, no parser: an unchanged refresh needs nothing
but this.

A refresh stages documents under the sequence number to come. They are invisible until its head is committed, in one
transaction with everything that it replaces; what a killed refresh staged is removed at the next start.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.core.errors import ConflictError, NotFoundError
from llmops.core.files import exclusive_lock
from llmops.core.state import StateConfig
from llmops.rag.database import SqliteFile
from llmops.rag.database_postgresql import PostgresqlSchema, is_postgresql, place_of_index, shown

SCHEMA_VERSION = 3
FILE_NAME = "manifest.db"

CURRENT = "current_generation"
"""Fact: the name of the generation refreshed last."""
EMBED_RATE = "embedded_per_s"
"""Fact: texts a second of the last refresh that embedded a fair number."""

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE generations (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL, created REAL NOT NULL,
    store_stamp TEXT);
CREATE TABLE heads (
    generation INTEGER NOT NULL REFERENCES generations, seq INTEGER NOT NULL, digest TEXT NOT NULL,
    size INTEGER NOT NULL, documents INTEGER NOT NULL, chunks INTEGER NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (generation, seq)) WITHOUT ROWID;
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, generation INTEGER NOT NULL REFERENCES generations, seq INTEGER NOT NULL, uri TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, racy INTEGER NOT NULL, sha256 TEXT NOT NULL, title TEXT,
    media_type TEXT NOT NULL, acl TEXT NOT NULL, metadata TEXT NOT NULL, parsed TEXT NOT NULL, pages TEXT NOT NULL,
    text BLOB NOT NULL, UNIQUE (generation, uri, seq));
CREATE TABLE chunks (
    generation INTEGER NOT NULL, row INTEGER NOT NULL, id BLOB NOT NULL, document INTEGER NOT NULL REFERENCES documents,
    ordinal INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL, page INTEGER, vector BLOB NOT NULL,
    context TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (generation, row));
CREATE INDEX chunks_of_document ON chunks (document);
CREATE TABLE arenas (
    id INTEGER PRIMARY KEY, embedder TEXT NOT NULL UNIQUE, file TEXT NOT NULL, dimension INTEGER NOT NULL,
    slots INTEGER NOT NULL);
CREATE TABLE vectors (
    key BLOB PRIMARY KEY, arena INTEGER NOT NULL REFERENCES arenas, slot INTEGER NOT NULL, crc INTEGER NOT NULL
    ) WITHOUT ROWID;
CREATE TABLE segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, generation INTEGER NOT NULL, seq INTEGER NOT NULL, rows INTEGER NOT NULL,
    data BLOB NOT NULL);
CREATE TABLE quarantine (
    generation INTEGER NOT NULL, uri TEXT NOT NULL, reason TEXT NOT NULL, code TEXT NOT NULL, attempts INTEGER NOT NULL,
    retry_at REAL NOT NULL, size INTEGER, mtime_ns INTEGER, limits TEXT NOT NULL,
    PRIMARY KEY (generation, uri)) WITHOUT ROWID;
CREATE TABLE intents (
    generation INTEGER PRIMARY KEY, seq INTEGER NOT NULL, phase TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE tombstones (
    uri TEXT PRIMARY KEY, actor TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL, size INTEGER, sha256 TEXT
    ) WITHOUT ROWID;
CREATE TABLE replies (key BLOB PRIMARY KEY, facts TEXT NOT NULL, dropped INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE derived (
    document INTEGER PRIMARY KEY REFERENCES documents, generation INTEGER NOT NULL, recipe TEXT NOT NULL,
    facts TEXT NOT NULL, reply BLOB, attempts INTEGER NOT NULL, retry_at REAL NOT NULL);
"""
_TABLES_OF_3 = _SCHEMA[_SCHEMA.index("CREATE TABLE replies") :]
_STEPS = {
    1: _SCHEMA[_SCHEMA.index("CREATE TABLE tombstones") :],
    2: f"ALTER TABLE tombstones ADD COLUMN size INTEGER; ALTER TABLE tombstones ADD COLUMN sha256 TEXT; {_TABLES_OF_3}",
}
"""What an index of an older format lacks: bringing it up costs less than embedding its documents again."""

_SHARED = """;
ALTER TABLE vectors ADD COLUMN data BLOB NOT NULL;
CREATE INDEX vectors_by_slot ON vectors (arena, slot)
"""
"""Where several machines share a manifest, it holds the vectors too."""


@dataclass(frozen=True, slots=True)
class Head:
    """One committed state of a generation. `digest` is a hash of its sorted chunk ids; rows are 0 to `size` - 1."""

    generation: str
    seq: int
    digest: str
    size: int
    documents: int
    chunks: int
    created: float


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A document that could not be read, and when it is tried again; a changed file is tried at once."""

    uri: str
    reason: str
    code: str
    attempts: int
    retry_at: float
    size: int | None
    mtime_ns: int | None
    limits: str


@dataclass(frozen=True, slots=True)
class ArenaRecord:
    """Where the vectors of one embedder lie, and how many slots of the file are committed."""

    id: int
    embedder: str
    file: str
    dimension: int
    slots: int


class Manifest:
    """One connection to an index's manifest; used by one thread at a time.

    Attributes:
        folder: of the index on this machine: the file of the manifest, or what is kept of a shared one.
    """

    def __init__(self, state: StateConfig, name: str, database: SqliteFile | PostgresqlSchema) -> None:
        self.state = state
        self.name = name
        self.folder = state.index(name)
        self.db = database
        self.where = database.where

    @classmethod
    def open(cls, state: StateConfig, name: str, *, create: bool = False, moving: bool = False) -> Manifest:
        """Open the manifest of an index: in PostgreSQL where the state is there, else in the index's folder.

        Args:
            moving: the one in the folder is about to come here.

        Raises:
            NotFoundError: there is none, and `create` is false.
            IntegrityError: it is damaged, or written by a newer version of the product.
            ConflictError: the index was ingested into its folder before the state was moved to PostgreSQL.
        """
        folder = state.index(name)
        path = folder / FILE_NAME
        if state.sql_url is not None and is_postgresql(state.sql_url):
            if not moving:
                _refuse_two(path)
            schema = PostgresqlSchema.open(
                state.sql_url, place_of_index(name), _SCHEMA + _SHARED if create else "", SCHEMA_VERSION, _STEPS
            )
            if schema is None:
                raise NotFoundError(
                    f"there is no index `{name}`", where=shown(state.sql_url), hint="run `llmops ingest`"
                )
            return cls(state, name, schema)
        if not create and not path.exists():
            raise NotFoundError(
                f"there is no index `{folder.name}`", where=str(folder), hint="run `llmops ingest` first"
            )
        return cls(state, name, SqliteFile.open(path, _SCHEMA, SCHEMA_VERSION, _STEPS))

    @classmethod
    @contextmanager
    def writing(cls, state: StateConfig, name: str, *, create: bool = False, wait_s: float = 0.0) -> Iterator[Manifest]:
        """Open the manifest as the only one that writes, on all machines that share it.

        Raises:
            NotFoundError: there is none, and `create` is false.
            ConflictError: somebody else refreshes this index.
        """
        if not create:
            cls.open(state, name).close()  # an unknown index gets no folder
        what = f"ingesting {name}"
        with exclusive_lock(state.index(name) / "ingest.lock", what=what, wait_s=wait_s):
            manifest = cls.open(state, name, create=create)
            try:
                with manifest.db.locked(what, wait_s):
                    yield manifest
            finally:
                manifest.close()

    @classmethod
    def empty(cls) -> Manifest:
        """A manifest in memory, for planning the first refresh without leaving a trace."""
        return cls(StateConfig(), "", SqliteFile.in_memory(_SCHEMA, SCHEMA_VERSION))

    def again(self) -> Manifest:
        """Another connection to the same manifest."""
        return Manifest.open(self.state, self.name)

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block's writes or none, durable when it returns."""
        with self.db.transaction():
            yield

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        return self.db.query(sql, parameters)

    def fact(self, name: str) -> str | None:
        found = self.query("SELECT value FROM facts WHERE name = ?", (name,))
        return str(found[0][0]) if found else None

    def set_fact(self, name: str, value: str) -> None:
        """Write one fact, unless it stands already (an unchanged refresh writes nothing)."""
        if self.fact(name) != value:
            self.db.execute(
                "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
            )

    def generation(self, name: str) -> int:
        """The number of a generation.

        Raises:
            NotFoundError: the index has no such generation.
        """
        found = self.query("SELECT number FROM generations WHERE name = ?", (name,))
        if not found:
            raise NotFoundError(f"the index has no generation `{name}`", where=self.where)
        return int(found[0][0])

    def add_generation(self, name: str, settings: dict[str, Any]) -> int:
        """The number of a generation, made where it is new."""
        found = self.query("SELECT number FROM generations WHERE name = ?", (name,))
        if found:
            return int(found[0][0])
        row = (name, json.dumps(settings, sort_keys=True), time.time())
        return self.db.insert(
            "INSERT INTO generations (name, settings, created) VALUES (?, ?, ?) RETURNING number", row
        )

    def settings(self, generation: int) -> dict[str, Any]:
        found = self.query("SELECT settings FROM generations WHERE number = ?", (generation,))
        settings: dict[str, Any] = json.loads(found[0][0])
        return settings

    def generations(self) -> list[tuple[int, str]]:
        return [
            (int(number), str(name))
            for number, name in self.query("SELECT number, name FROM generations ORDER BY number")
        ]

    def head(self, generation: int) -> Head | None:
        """The last committed head of a generation, or None before its first."""
        found = self.query(
            "SELECT g.name, h.seq, h.digest, h.size, h.documents, h.chunks, h.created FROM heads h"
            " JOIN generations g ON g.number = h.generation WHERE h.generation = ? ORDER BY h.seq DESC LIMIT 1",
            (generation,),
        )
        return Head(*found[0]) if found else None

    def quarantine(self, generation: int) -> dict[str, Quarantined]:
        found = self.query(
            "SELECT uri, reason, code, attempts, retry_at, size, mtime_ns, limits FROM quarantine"
            " WHERE generation = ? ORDER BY uri",
            (generation,),
        )
        return {row[0]: Quarantined(*row) for row in found}

    def replace_quarantine(self, generation: int, rows: Iterable[Quarantined]) -> None:
        """Make `rows` the whole quarantine of a generation; call it in a transaction."""
        self.db.execute("DELETE FROM quarantine WHERE generation = ?", (generation,))
        values = [
            (generation, r.uri, r.reason, r.code, r.attempts, r.retry_at, r.size, r.mtime_ns, r.limits) for r in rows
        ]
        self.db.executemany("INSERT INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def intents(self) -> list[tuple[int, int, str]]:
        """(generation, seq, phase) of every refresh that began to write and has not ended."""
        return [tuple(row) for row in self.query("SELECT generation, seq, phase FROM intents")]

    def set_intent(self, generation: int, seq: int, phase: str) -> None:
        self.db.execute(
            "INSERT INTO intents VALUES (?, ?, ?, ?) ON CONFLICT (generation) DO UPDATE"
            " SET seq = excluded.seq, phase = excluded.phase, created = excluded.created",
            (generation, seq, phase, time.time()),
        )

    def clear_intent(self, generation: int) -> None:
        self.db.execute("DELETE FROM intents WHERE generation = ?", (generation,))

    def store_stamp(self, generation: int) -> str | None:
        """How the vector store's files looked when it was last whole; None while it is being written."""
        found = self.query("SELECT store_stamp FROM generations WHERE number = ?", (generation,))
        return found[0][0] if found else None

    def set_store_stamp(self, generation: int, stamp: str | None) -> None:
        self.db.execute("UPDATE generations SET store_stamp = ? WHERE number = ?", (stamp, generation))

    def arena(self, embedder: str) -> ArenaRecord | None:
        found = self.query("SELECT id, embedder, file, dimension, slots FROM arenas WHERE embedder = ?", (embedder,))
        return ArenaRecord(*found[0]) if found else None

    def add_arena(self, embedder: str, file: str, dimension: int) -> ArenaRecord:
        row = (embedder, file, dimension)
        self.db.execute("INSERT INTO arenas (embedder, file, dimension, slots) VALUES (?, ?, ?, 0)", row)
        record = self.arena(embedder)
        assert record is not None
        return record


def _refuse_two(path: Path) -> None:
    """An index that was ingested into its folder is not left behind by the way, with what was deleted from it."""
    if path.exists() and _holds_an_index(path):
        raise ConflictError(
            "this index was ingested into its folder, and state.sql_url now names another place",
            where=str(path),
            hint="`llmops ingest move` brings it there, with all that was deleted from it",
        )


def _holds_an_index(path: Path) -> bool:
    """Whether there is anything in it: a move into the folder that was killed leaves an empty one."""
    file = SqliteFile.open(path, _SCHEMA, SCHEMA_VERSION, _STEPS)
    try:
        return bool(file.query("SELECT 1 FROM generations LIMIT 1"))
    finally:
        file.close()
