"""Moves an index between its folder and PostgreSQL, with vectors and tombstones, and proves that nothing is lost.

Everything is copied into one transaction of the new place, read back there and compared with the old place before that
commits; only then is the old place emptied. No writer gets in between: the old place is locked all the time. Where a
crash comes in between, the same call again does the rest. Knows tables by their columns; parses and embeds nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from llmops.core.errors import ConflictError, IntegrityError, NotFoundError, UserError
from llmops.core.files import exclusive_lock
from llmops.rag import forgotten, kept_vectors, records
from llmops.rag.database_postgresql import is_postgresql, shown
from llmops.rag.index import places
from llmops.rag.ingest.recovery import recover
from llmops.rag.manifest import Manifest

if TYPE_CHECKING:
    from llmops.core.state import StateConfig

_BATCH = 500


@dataclass(frozen=True)
class _Table:
    """A table's columns, the first of which are its key."""

    name: str
    columns: tuple[str, ...]
    keys: int = 1

    @property
    def listed(self) -> str:
        return ", ".join(f'"{column}"' for column in self.columns)


def _table(name: str, columns: str, keys: int = 1) -> _Table:
    return _Table(name, tuple(columns.split()), keys)


_TABLES = (
    _table("generations", "number name settings created"),
    _table("heads", "generation seq digest size documents chunks created", 2),
    _table(
        "documents",
        "id generation seq uri size mtime_ns racy sha256 title media_type acl metadata parsed pages text",
    ),
    _table("chunks", "generation row id document ordinal start end page vector context text", 2),
    _table("arenas", "id embedder file dimension slots"),
    _table("vectors", "key arena slot crc"),
    _table("segments", "id generation seq rows data"),
    _table("quarantine", "generation uri reason code attempts retry_at size mtime_ns limits", 2),
    _table("intents", "generation seq phase created"),
    _table("tombstones", "uri actor reason at size sha256"),
    _table("replies", "key facts dropped"),
    _table("derived", "document generation recipe facts reply attempts retry_at"),
    _table("facts", "name value"),
)
"""Every table of a manifest, in an order in which what is named is there. Where the store is, `places` carries over."""


@dataclass(frozen=True)
class Moved:
    """What was, or by a plan would be, moved. `digests`: of the head of each generation, equal in both places.

    `finished`: an earlier call had copied everything, and this one only emptied the old place.
    """

    index: str
    source: str
    target: str
    digests: dict[str, str]
    rows: dict[str, int]
    planned: bool = False
    finished: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, as `llmops ingest move --json` prints them."""
        return asdict(self)


def move(state: StateConfig, name: str, origin: str | None, *, plan: bool = False) -> Moved:
    """Bring an index to where the state is configured to be.

    Args:
        origin: URL of the database that it lies in now; None: in its folder.

    Raises:
        UserError: it lies there already.
        NotFoundError: there is no such index at its origin.
        ConflictError: the new place has another index of this name, or somebody writes.
        IntegrityError: the origin is damaged; both places stay as they are.
    """
    if origin == (state.sql_url if is_postgresql(state.sql_url) else None):
        raise UserError("the index is where the configuration wants it", hint="name another place by --from")
    old = state.model_copy(update={"sql_url": origin})
    lock = exclusive_lock(state.index(name) / "ingest.lock", what=f"ingesting {name}")
    with lock, closing(Manifest.open(old, name, moving=True)) as source, source.db.locked(f"moving {name}"):
        if plan:
            return Moved(name, source.where, _where(state), _digests(source), _counted(source), planned=True)
        recover(source)
        forgotten.carry_over(old, state)
        with (
            closing(Manifest.open(state, name, create=True, moving=True)) as target,
            target.db.locked(f"moving {name}"),
            source.transaction(),
        ):
            moved = _carry_over(source, target)
            source.db.empty()
        source.db.remove()
    return moved


def _carry_over(source: Manifest, target: Manifest) -> Moved:
    """Copy, prove and commit; nothing is left to copy where an earlier call came that far."""
    if not source.generations():
        if not target.generations():
            raise NotFoundError(f"there is no index `{source.name}`", where=source.where, hint="run `llmops ingest`")
        return _told(source, target, finished=True)
    finished = bool(target.generations())
    with _unless(finished, target):
        if not finished:
            for table in _TABLES:
                _copy(source, target, table)
            target.db.number_on({table.name: table.columns[0] for table in _TABLES if table.columns[0] in _NUMBERED})
        _prove(source, target, ConflictError if finished else IntegrityError)
        for number, generation in source.generations():
            _carry_store_over(source, target, generation, number)
    for (embedder,) in target.query("SELECT embedder FROM arenas"):
        record = target.arena(embedder)
        assert record is not None
        kept_vectors.mark(target, record)
    return _told(source, target, finished=finished)


_NUMBERED = ("id", "number", "document")


@contextmanager
def _unless(finished: bool, target: Manifest) -> Iterator[None]:
    if finished:
        yield
        return
    with target.transaction():
        yield


def _copy(source: Manifest, target: Manifest, table: _Table) -> None:
    shared = target.db.is_shared and table.name == "vectors"
    marks = ", ".join("?" * (len(table.columns) + shared))
    into = f"INSERT INTO {table.name} ({table.listed}{', data' if shared else ''}) VALUES ({marks})"  # noqa: S608
    held = _on_this_machine(source) if shared else None
    for rows in _batches(source, table):
        target.db.executemany(into, rows if held is None else [(*row, held(row)) for row in rows])


def _batches(manifest: Manifest, table: _Table) -> Iterator[list[Any]]:
    """All rows in the order of their keys, some at a time."""
    keys = ", ".join(f'"{key}"' for key in table.columns[: table.keys])
    marks = ", ".join("?" * table.keys)
    last: tuple[Any, ...] | None = None
    while True:
        behind = "" if last is None else f"WHERE ({keys}) > ({marks})"
        rows = manifest.query(
            f"SELECT {table.listed} FROM {table.name} {behind} ORDER BY {keys} LIMIT {_BATCH}",  # noqa: S608 - constants
            last or (),
        )
        if not rows:
            return
        yield rows
        last = tuple(rows[-1][: table.keys])


def _on_this_machine(manifest: Manifest) -> Callable[[Any], bytes]:
    """Gives the vector of a row of `vectors` as it lies in this machine's file, if that is what its checksum says."""
    found = [manifest.arena(embedder) for (embedder,) in manifest.query("SELECT embedder FROM arenas")]
    files = {record.id: kept_vectors.mapped(manifest, record) for record in found if record is not None}

    def read(row: Any) -> bytes:
        _, arena, slot, crc = row
        return _sound(np.ascontiguousarray(files[arena][slot], dtype="<f4").tobytes(), crc, manifest)

    return read


def _sound(data: bytes, crc: int, manifest: Manifest) -> bytes:
    if zlib.crc32(data) != crc:
        raise IntegrityError(
            "a vector is not what was written", where=manifest.where, hint="run `llmops ingest --verify`, then again"
        )
    return data


def _prove(source: Manifest, target: Manifest, failure: type[ConflictError | IntegrityError]) -> None:
    """Compare both places row by row, and the vectors with their checksums.

    Raises:
        ConflictError, IntegrityError: as `failure` says: they differ.
    """
    for table in _TABLES:
        if _fingerprint(source, table) != _fingerprint(target, table):
            raise failure(
                f"the two places hold different indexes: their {table.name} differ",
                where=target.where,
                hint="nothing was removed; take one of them away by hand, once you know which is right",
            )
    for number, name in target.generations():
        head = target.head(number)
        if head is not None and records.chunk_ids_of(target, number).digest != head.digest:
            raise failure(f"generation {name} is not what its head says", where=target.where)
    _prove_vectors(target)


def _prove_vectors(target: Manifest) -> None:
    if target.db.is_shared:
        for rows in _batches(target, _table("vectors", "key data crc")):
            for _, data, crc in rows:
                _sound(data, crc, target)
        return
    held = _on_this_machine(target)
    for rows in _batches(target, _table("vectors", "key arena slot crc")):
        for row in rows:
            held(row)


def _fingerprint(manifest: Manifest, table: _Table) -> str:
    hashed = sha256()
    for rows in _batches(manifest, table):
        for row in rows:
            for value in row:
                data = bytes(value) if isinstance(value, bytes | memoryview) else repr(value).encode()
                hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.hexdigest()


def _carry_store_over(source: Manifest, target: Manifest, generation: str, number: int) -> None:
    """A store in this machine's folder stays where it is; the new place has to know how it looks."""
    head = source.head(number)
    if head is not None and places.kept_of(source, generation).config.url is None:
        whole = places.follows(source, generation, head)
        places.set_stamp(target, generation, places.stamp_of(source, generation) if whole else None)
        places.follow(target, generation, head if whole else None)


def _told(source: Manifest, target: Manifest, *, finished: bool) -> Moved:
    return Moved(target.name, source.where, target.where, _digests(target), _counted(target), finished=finished)


def _digests(manifest: Manifest) -> dict[str, str]:
    heads = {name: manifest.head(number) for number, name in manifest.generations()}
    return {name: head.digest for name, head in heads.items() if head is not None}


def _counted(manifest: Manifest) -> dict[str, int]:
    names = ("documents", "chunks", "vectors", "tombstones", "replies")
    return {name: manifest.query(f"SELECT count(*) FROM {name}")[0][0] for name in names}  # noqa: S608 - constants


def _where(state: StateConfig) -> str:
    return shown(state.sql_url) if state.sql_url is not None and is_postgresql(state.sql_url) else str(state.root)
