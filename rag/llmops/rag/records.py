"""The rows of documents and chunks in a manifest, and the ids that make an index comparable to any other build of it.

Knows how a document and its passages are written and read back. It opens no file and decides nothing about what to
keep.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from llmops.rag.document import PageSpan, Parsed, SourceItem

if TYPE_CHECKING:
    from llmops.rag.ingest.chunk import Passage
    from llmops.rag.manifest import Manifest

_MANY = 500
DERIVED = "coalesce((SELECT x.facts FROM derived x WHERE x.document = d.id), '{}')"
"""In a query of documents `d`: their derived facts, as JSON."""


class DocumentStat(NamedTuple):
    """What a scan is compared with. `racy`: the file changed so shortly before it that a later change may hide."""

    uri: str
    size: int
    mtime_ns: int
    acl: str
    metadata: str
    racy: bool
    sha256: str
    id: int


class ChunkIds(NamedTuple):
    """What a head says of the chunk ids of its generation: SHA-256 over them, sorted, and their number."""

    digest: str
    number: int
    distinct: bool


@dataclass(frozen=True, slots=True)
class StagedDocument:
    """A parsed document on its way in: its passages with their chunk ids and vector keys, in order."""

    item: SourceItem
    racy: bool
    parsed: Parsed
    passages: Sequence[Passage]
    ids: Sequence[bytes]
    keys: Sequence[bytes]


def chunk_ids(uri: str, indexed_texts: Sequence[str]) -> list[bytes]:
    """One id a chunk: a hash of (uri, indexed text, how many equal ones stand before it in the document).

    The same text in the same document keeps its id wherever it moves; the same id always has the same vector.
    """
    seen: Counter[str] = Counter()
    ids = []
    for text in indexed_texts:
        ids.append(_hash(uri.encode(), text.encode(), str(seen[text]).encode()))
        seen[text] += 1
    return ids


def vector_key(indexed_text: str, embedder: str) -> bytes:
    """Names the vector of a text under one embedder: equal texts share it, in whatever document they stand."""
    return _hash(embedder.encode(), indexed_text.encode())


def acl_json(acl: Iterable[str]) -> str:
    return json.dumps(sorted(set(acl)))


def metadata_json(metadata: Any) -> str:
    return json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False)


_STATS = (
    "SELECT uri, size, mtime_ns, acl, metadata, racy, sha256, id FROM documents WHERE generation = ?"
    " AND seq <= (SELECT coalesce(max(seq), 0) FROM heads WHERE generation = ?)"
)


def document_stats(manifest: Manifest, generation: int) -> Iterator[DocumentStat]:
    """Every document of the current head, in the order of their uris."""
    return map(DocumentStat._make, manifest.db.stream(f"{_STATS} ORDER BY uri", (generation, generation)))


def document_stat(manifest: Manifest, generation: int, uri: str) -> DocumentStat | None:
    """One document of the current head."""
    found = manifest.query(f"{_STATS} AND uri = ?", (generation, generation, uri))
    return DocumentStat._make(found[0]) if found else None


def chunk_ids_of(manifest: Manifest, generation: int) -> ChunkIds:
    """All chunk ids that the manifest holds for a generation, sorted by the database, not in memory."""
    hashed, count, distinct, last = hashlib.sha256(), 0, True, None
    for (chunk,) in manifest.db.stream("SELECT id FROM chunks WHERE generation = ? ORDER BY id", (generation,)):
        hashed.update(chunk)
        count += 1
        distinct = distinct and chunk != last
        last = chunk
    return ChunkIds(hashed.hexdigest(), count, distinct)


def stage(manifest: Manifest, place: tuple[int, int], documents: Sequence[StagedDocument], first_row: int) -> int:
    """Write documents and chunks under a head to come; call it in a transaction.

    Args:
        place: (generation, seq to come).

    Returns:
        The row after the last one used.
    """
    generation, seq = place
    row = first_row
    for staged in documents:
        item, parsed = staged.item, staged.parsed
        values = (
            *(generation, seq, item.uri, item.size, item.mtime_ns, int(staged.racy), parsed.sha256, parsed.title),
            *(parsed.media_type, acl_json(item.acl), metadata_json(item.metadata), metadata_json(parsed.metadata)),
            json.dumps([(page.number, page.start, page.end) for page in parsed.pages]),
            zlib.compress(parsed.text.encode(), 1),
        )
        document = manifest.db.insert(
            "INSERT INTO documents (generation, seq, uri, size, mtime_ns, racy, sha256, title, media_type, acl,"
            " metadata, parsed, pages, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
            values,
        )
        manifest.db.executemany(
            "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    generation,
                    row + n,
                    staged.ids[n],
                    document,
                    p.ordinal,
                    p.start,
                    p.end,
                    p.page,
                    staged.keys[n],
                    p.context,
                    p.text,
                )
                for n, p in enumerate(staged.passages)
            ],
        )
        row += len(staged.passages)
    return row


def touch(manifest: Manifest, touched: Iterable[tuple[SourceItem, int, bool]]) -> None:
    """Record a new size and time of documents (by id) whose bytes are the same; call it in a transaction."""
    manifest.db.executemany(
        "UPDATE documents SET size = ?, mtime_ns = ?, racy = ? WHERE id = ?",
        ((item.size, item.mtime_ns, int(racy), document) for item, document, racy in touched),
    )


def relabel(manifest: Manifest, relabelled: Iterable[tuple[SourceItem, int]]) -> None:
    """Record another access list and other metadata of documents (by id); call it in a transaction."""
    manifest.db.executemany(
        "UPDATE documents SET acl = ?, metadata = ? WHERE id = ?",
        ((acl_json(item.acl), metadata_json(item.metadata), document) for item, document in relabelled),
    )


def remove_documents(manifest: Manifest, documents: Iterable[int]) -> None:
    """Delete documents with their chunks; call it in a transaction."""
    rows = ((document,) for document in documents)
    while some := list(islice(rows, _MANY)):
        for table, column in (("chunks", "document"), ("derived", "document"), ("documents", "id")):
            manifest.db.executemany(f"DELETE FROM {table} WHERE {column} = ?", some)  # noqa: S608 - constants


def remove_staged(manifest: Manifest, generation: int, seq: int) -> None:
    """Delete everything written under heads after `seq`; call it in a transaction."""
    staged = "SELECT id FROM documents WHERE generation = ? AND seq > ?"
    manifest.db.execute(f"DELETE FROM chunks WHERE document IN ({staged})", (generation, seq))  # noqa: S608 - a constant
    manifest.db.execute("DELETE FROM documents WHERE generation = ? AND seq > ?", (generation, seq))
    manifest.db.execute("DELETE FROM segments WHERE generation = ? AND seq > ?", (generation, seq))


def ids_of(manifest: Manifest, document: int) -> list[bytes]:
    """The chunk ids of a document."""
    return [row[0] for row in manifest.query("SELECT id FROM chunks WHERE document = ?", (document,))]


def replaced(manifest: Manifest, generation: int, seq: int) -> Iterator[int]:
    """The documents of the current head that others, staged under the head to come, replace."""
    found = manifest.db.stream(
        "SELECT old.id FROM documents new JOIN documents old ON old.generation = new.generation AND old.uri = new.uri"
        " AND old.seq < new.seq WHERE new.generation = ? AND new.seq = ?",
        (generation, seq),
    )
    return (row[0] for row in found)


def dead_ids(manifest: Manifest, document: int) -> list[bytes]:
    """The chunk ids that go with a document: those that the one which replaces it does not have as well."""
    kept = manifest.query(
        "SELECT c.id FROM documents old JOIN documents new ON new.generation = old.generation AND new.uri = old.uri"
        " AND new.seq > old.seq JOIN chunks c ON c.document = new.id WHERE old.id = ?",
        (document,),
    )
    stay = {row[0] for row in kept}
    return [chunk for chunk in ids_of(manifest, document) if chunk not in stay]


def slots_of(manifest: Manifest, keys: Sequence[bytes]) -> dict[bytes, int]:
    """The arena slots of those vector keys that are cached."""
    slots: dict[bytes, int] = {}
    for start in range(0, len(keys), _MANY):
        some = keys[start : start + _MANY]
        marks = ",".join("?" * len(some))
        slots.update(manifest.query(f"SELECT key, slot FROM vectors WHERE key IN ({marks})", some))  # noqa: S608
    return slots


def parsed_of(manifest: Manifest, document: int) -> Parsed:
    """A document as its parser gave it, from the manifest."""
    found = manifest.query(
        "SELECT title, text, pages, media_type, parsed, sha256 FROM documents WHERE id = ?", (document,)
    )
    title, text, pages, media_type, parsed, sha256 = found[0]
    return Parsed(title, text_of(text), pages_of(pages), media_type, json.loads(parsed), sha256)


def merged(facts: str, parsed: str, derived: str = "{}") -> dict[str, Any]:
    """A document's metadata: what was derived from it, under what its parser learned, under what its source says."""
    return {**json.loads(derived), **json.loads(parsed), **json.loads(facts)}


def text_of(blob: bytes) -> str:
    return zlib.decompress(blob).decode()


def pages_of(value: str) -> tuple[PageSpan, ...]:
    return tuple(PageSpan(*page) for page in json.loads(value))


def _hash(*parts: bytes) -> bytes:
    """128 bits of SHA-256 over length-prefixed parts, so that no two lists of parts meet by concatenation."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.digest()[:16]
