"""What is in an index, for whoever looks at it (`ingest status`, `ingest inspect`), from its manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.core.errors import LlmopsError, NotFoundError, did_you_mean
from llmops.rag.index.places import place_of, stamp_of
from llmops.rag.manifest import CURRENT, EMBED_RATE, Head, Manifest, Quarantined
from llmops.rag.records import DERIVED, merged, pages_of, text_of

if TYPE_CHECKING:
    from llmops.core.state import StateConfig


@dataclass(frozen=True)
class GenerationStatus:
    """One generation: its head, where its vector store is, and whether that is whole as far as a look tells.

    `store_problem` is why no look could be taken: its server does not answer.
    """

    name: str
    current: bool
    head: Head | None
    settings: dict[str, Any]
    quarantined: tuple[Quarantined, ...]
    store: str
    store_whole: bool
    store_problem: str | None
    interrupted: bool


@dataclass(frozen=True)
class Status:
    """An index as it stands on the disk; sizes in bytes."""

    index: str
    folder: str
    generations: tuple[GenerationStatus, ...]
    vectors: int
    embedded_per_s: float | None
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, as `llmops ingest status --json` prints them."""
        return asdict(self)


@dataclass(frozen=True)
class DocumentView:
    """A document as it was indexed, with its chunks; or only why it is in quarantine."""

    uri: str
    title: str | None
    media_type: str | None
    sha256: str | None
    size: int | None
    acl: tuple[str, ...]
    metadata: dict[str, Any]
    pages: int
    characters: int
    chunks: tuple[dict[str, Any], ...]
    quarantined: Quarantined | None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, as `llmops ingest inspect --json` prints them."""
        return asdict(self)


def status(state: StateConfig, name: str) -> Status:
    """Describe an index.

    Raises:
        NotFoundError: there is none of that name.
    """
    folder = state.index(name)
    manifest = Manifest.open(state, name)
    try:
        current = manifest.fact(CURRENT)
        interrupted = {generation for generation, _, _ in manifest.intents()}
        generations = tuple(
            GenerationStatus(
                generation,
                generation == current,
                manifest.head(number),
                manifest.settings(number),
                tuple(manifest.quarantine(number).values()),
                *_look_at_store(manifest, generation),
                number in interrupted,
            )
            for number, generation in manifest.generations()
        )
        rate = manifest.fact(EMBED_RATE)
        vectors = manifest.query("SELECT count(*) FROM vectors")[0][0]
    finally:
        manifest.close()
    return Status(name, str(folder), generations, vectors, float(rate) if rate else None, _size(folder.rglob("*")))


def _look_at_store(manifest: Manifest, generation: str) -> tuple[str, bool, str | None]:
    place = place_of(manifest, generation, reading=True)
    try:
        return place.where, place.is_whole(stamp_of(manifest, generation)), None
    except LlmopsError as error:
        return place.where, False, error.what


def inspect(state: StateConfig, name: str, uri: str, generation: str | None = None) -> DocumentView:
    """Describe one document of an index, by default in the generation refreshed last.

    Raises:
        NotFoundError: no such index, or no such document in it.
    """
    manifest = Manifest.open(state, name)
    try:
        chosen = generation or manifest.fact(CURRENT)
        if chosen is None:
            raise NotFoundError(f"the index `{name}` was never ingested to its end", hint="run `llmops ingest`")
        number = manifest.generation(chosen)
        return _view(manifest, number, uri)
    finally:
        manifest.close()


def _view(manifest: Manifest, number: int, uri: str) -> DocumentView:
    head = manifest.head(number)
    held = manifest.quarantine(number).get(uri)
    found = manifest.query(
        f"SELECT id, title, media_type, sha256, size, acl, metadata, parsed, {DERIVED}, pages, text"  # noqa: S608
        " FROM documents d WHERE generation = ? AND uri = ? AND seq <= ?",
        (number, uri, head.seq if head else 0),
    )
    if not found:
        if held is None:
            known = [row[0] for row in manifest.query("SELECT uri FROM documents WHERE generation = ?", (number,))]
            raise NotFoundError(f"there is no document `{uri}` in the index", hint=did_you_mean(uri, known))
        return DocumentView(uri, None, None, None, held.size, (), {}, 0, 0, (), held)
    document, title, media_type, sha256, size, acl, facts, parsed, derived, pages, text = found[0]
    rows = manifest.query(
        'SELECT id, ordinal, start, "end", page, context, text FROM chunks WHERE document = ? ORDER BY ordinal',
        (document,),
    )
    names = ("id", "ordinal", "start", "end", "page", "context", "text")
    chunks = tuple({**dict(zip(names, row, strict=True)), "id": row[0].hex()} for row in rows)
    counts = (len(pages_of(pages)), len(text_of(text)))
    labels = (tuple(json.loads(acl)), merged(facts, parsed, derived))
    return DocumentView(uri, title, media_type, sha256, size, *labels, *counts, chunks, held)


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())
