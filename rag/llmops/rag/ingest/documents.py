"""The documents of an index as a list that people can page through, take from and give back to.

`listing` reads; `delete` lays tombstones and takes the documents out of every generation at once; `restore` lifts them.
Who may do that, and the record of it, is `curation`'s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmops.core.errors import NotFoundError, UserError, did_you_mean
from llmops.rag import tombstones
from llmops.rag.ingest import removal
from llmops.rag.ingest.recovery import recover
from llmops.rag.manifest import CURRENT, Manifest

if TYPE_CHECKING:
    from llmops.core.state import StateConfig

State = Literal["indexed", "quarantined", "deleted"]
STATES: tuple[State, ...] = ("indexed", "quarantined", "deleted")
MOST = 1000
_WAIT_S = 600.0


@dataclass(frozen=True)
class Listed:
    """One document of an index.

    Attributes:
        groups: who may read it; nobody's where it is not indexed.
        size: of its file, in bytes.
        changed_at: when the document itself changed last; `indexed_at`: when the index took it up so.
        note: why it is in quarantine, or why and by whom it was deleted.
    """

    uri: str
    state: State
    title: str | None = None
    media_type: str | None = None
    size: int | None = None
    chunks: int = 0
    groups: tuple[str, ...] = ()
    source: str = "files"
    changed_at: float | None = None
    indexed_at: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Query:
    """Which documents, in the order of their uris.

    Args:
        match: pattern of SQLite's GLOB over the uri (`*` also crosses `/`); without any of `*?[` a part of the uri.
        group: only what this group may read by name.
        after: the last uri of the page before.
        limit: documents of a page, at most 1,000.
    """

    match: str = ""
    state: State | None = None
    group: str | None = None
    after: str = ""
    limit: int = 100

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MOST:
            raise UserError(f"a page has 1 to {MOST:,} documents", where="limit")
        if self.state is not None and self.state not in STATES:
            raise UserError(f"no document is `{self.state}`", where="state", hint=f"write {', '.join(STATES)}")

    @property
    def pattern(self) -> str:
        return self.match if any(sign in self.match for sign in "*?[") else f"*{self.match}*"


@dataclass(frozen=True)
class Page:
    """Some documents. `next`: what to give as `after` for those behind them; None at the end."""

    index: str
    generation: str
    documents: tuple[Listed, ...]
    next: str | None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, as `llmops ingest list --json` prints them."""
        return asdict(self)


@dataclass(frozen=True)
class Deletion:
    """What was, or by a plan would be, taken out. `generations`: those that held one of the documents."""

    index: str
    deleted: tuple[str, ...]
    already: tuple[str, ...]
    generations: tuple[str, ...]
    chunks: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def listing(state: StateConfig, name: str, query: Query) -> Page:
    """One page of an index' documents: indexed in the generation refreshed last, in quarantine, or deleted.

    Raises:
        NotFoundError: no such index.
    """
    manifest = Manifest.open(state, name)
    try:
        generation = _current(manifest, name)
        number = manifest.generation(generation)
        rows = manifest.query(_LISTING.format(**manifest.db.WORDS), _values(manifest, number, query))
    finally:
        manifest.close()
    documents = tuple(_listed(row) for row in rows[: query.limit])
    return Page(name, generation, documents, documents[-1].uri if len(rows) > query.limit else None)


def delete(
    state: StateConfig, name: str, uris: Sequence[str], *, actor: str, reason: str, plan: bool = False
) -> Deletion:
    """Take documents out of every generation now, and keep them out until they are restored.

    The tombstones come first, in one transaction; where a crash comes between them and the end, the same call again or
    the next refresh does the rest.

    Raises:
        NotFoundError: the index holds no such document; nothing was changed.
        ConflictError: a refresh has been running for ten minutes.
    """
    writing = Manifest.writing(state, name, wait_s=_WAIT_S)
    with closing(Manifest.open(state, name)) if plan else writing as manifest:
        held = _held(manifest, uris)
        removals = removal.of_uris(manifest, uris)
        chunks = sum(len(_rows(manifest, document)) for one in removals for document in one.gone.values())
        if not plan:
            _take_out(manifest, uris, removals, actor, reason)
    fresh = tuple(uri for uri in dict.fromkeys(uris) if uri not in held)
    return Deletion(name, fresh, tuple(sorted(held)), tuple(one.name for one in removals), chunks)


def restore(state: StateConfig, name: str, uris: Sequence[str], *, plan: bool = False) -> tuple[str, ...]:
    """Lift tombstones; the next refresh takes the documents up again, with the vectors that are still cached.

    Raises:
        NotFoundError: one of them was not deleted; nothing was changed.
    """
    manifest = Manifest.open(state, name)
    try:
        known = tombstones.tombstones(manifest)
        for uri in uris:
            if uri not in known:
                raise NotFoundError(
                    f"the document `{uri}` was not deleted by hand",
                    hint=did_you_mean(uri, known) or "`llmops ingest list --state deleted` lists those that were",
                )
        if not plan:
            tombstones.lift(manifest, uris)
    finally:
        manifest.close()
    return tuple(dict.fromkeys(uris))


def _take_out(
    manifest: Manifest, uris: Sequence[str], removals: Sequence[removal.Removal], actor: str, reason: str
) -> None:
    doubtful = recover(manifest)
    tombstones.lay(manifest, uris, actor=actor, reason=reason)
    removal.carry_out(manifest, removals, doubtful)
    with manifest.transaction():
        manifest.db.executemany("DELETE FROM quarantine WHERE uri = ?", [(uri,) for uri in uris])


def _held(manifest: Manifest, uris: Sequence[str]) -> set[str]:
    """Those that have a tombstone already.

    Raises:
        NotFoundError: the index knows one of them neither as a document nor by a tombstone.
    """
    laid = tombstones.tombstones(manifest)
    for uri in uris:
        known = manifest.query(
            "SELECT 1 FROM documents WHERE uri = ? UNION ALL SELECT 1 FROM quarantine WHERE uri = ? LIMIT 1", (uri, uri)
        )
        if not known and uri not in laid:
            near = [row[0] for row in manifest.query("SELECT DISTINCT uri FROM documents")]
            raise NotFoundError(
                f"there is no document `{uri}` in the index",
                hint=did_you_mean(uri, near) or "`llmops ingest list` lists its documents",
            )
    return {uri for uri in uris if uri in laid}


def _rows(manifest: Manifest, document: int) -> list[Any]:
    return manifest.query("SELECT row FROM chunks WHERE document = ?", (document,))


def _current(manifest: Manifest, name: str) -> str:
    generation = manifest.fact(CURRENT)
    if generation is None:
        raise NotFoundError(f"the index `{name}` was never ingested to its end", hint="run `llmops ingest`")
    return generation


_LISTING = """
SELECT * FROM (
    SELECT d.uri AS uri, 'indexed' AS state, d.title, d.media_type, d.size, d.mtime_ns, d.acl AS acl,
        (SELECT count(*) FROM chunks c WHERE c.document = d.id),
        (SELECT created FROM heads h WHERE h.generation = d.generation AND h.seq = d.seq), NULL
    FROM documents d WHERE d.generation = :generation AND d.seq <= :seq
    UNION ALL
    SELECT q.uri, 'quarantined', NULL, NULL, q.size, q.mtime_ns, '[]', 0, NULL, q.reason
    FROM quarantine q WHERE q.generation = :generation AND NOT EXISTS (
        SELECT 1 FROM documents d WHERE d.generation = q.generation AND d.uri = q.uri AND d.seq <= :seq)
    UNION ALL
    SELECT t.uri, 'deleted', NULL, NULL, NULL, NULL, '[]', 0, t.at, t.actor || ': ' || t.reason
    FROM tombstones t) AS found
WHERE uri > :after AND {matches} AND (CAST(:state AS TEXT) IS NULL OR state = :state)
    AND (CAST(:group AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM {elements} WHERE value = :group))
ORDER BY uri LIMIT :limit
"""


def _values(manifest: Manifest, number: int, query: Query) -> Any:
    head = manifest.head(number)
    return {
        "generation": number,
        "seq": head.seq if head else 0,
        "after": query.after,
        "pattern": manifest.db.pattern(query.pattern),
        "state": query.state,
        "group": query.group,
        "limit": query.limit + 1,
    }


def _listed(row: Any) -> Listed:
    uri, state, title, media_type, size, mtime_ns, acl, chunks, at, note = row
    changed = None if mtime_ns is None else mtime_ns / 1e9
    return Listed(uri, state, title, media_type, size, chunks, tuple(json.loads(acl)), _source(uri), changed, at, note)


def _source(uri: str) -> str:
    """What kind of source a uri is of."""
    scheme = uri.partition(":")[0]
    if scheme in ("sql", "table"):
        return scheme
    if "#" in uri:
        return "git"
    return "web" if scheme in ("http", "https") else "bucket" if "://" in uri else "files"
