"""The rows of documents and chunks in a manifest, and the ids that make an index comparable to any other build of it.

Knows how a document and its passages are written and read back. It opens no file and decides nothing about what to
keep.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops.rag.document import PageSpan, Parsed, SourceItem

if TYPE_CHECKING:
    from llmops.rag.ingest.chunk import Passage
    from llmops.rag.manifest import Manifest

_MANY = 500
DERIVED = "coalesce((SELECT x.facts FROM derived x WHERE x.document = d.id), '{}')"
"""In a query of documents `d`: their derived facts, as JSON."""


@dataclass(frozen=True, slots=True)
class DocumentStat:
    """What a scan is compared with. `racy`: the file changed so shortly before it that a later change may hide."""

    id: int
    uri: str
    size: int
    mtime_ns: int
    racy: bool
    sha256: str
    acl: str
    metadata: str


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


def digest(ids: Iterable[bytes]) -> str:
    """The digest of a head: SHA-256 over its sorted chunk ids."""
    return hashlib.sha256(b"".join(sorted(ids))).hexdigest()


def acl_json(acl: Iterable[str]) -> str:
    return json.dumps(sorted(set(acl)))


def metadata_json(metadata: Any) -> str:
    return json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False)


def document_stats(manifest: Manifest, generation: int) -> dict[str, DocumentStat]:
    """Every document of the current head, by uri."""
    found = manifest.query(
        "SELECT id, uri, size, mtime_ns, racy, sha256, acl, metadata FROM documents WHERE generation = ?", (generation,)
    )
    return {row[1]: DocumentStat(row[0], row[1], row[2], row[3], bool(row[4]), *row[5:]) for row in found}


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


def touch(manifest: Manifest, touched: Iterable[tuple[int, SourceItem, bool]]) -> None:
    """Record a new size and time of documents whose bytes are the same; call it in a transaction."""
    manifest.db.executemany(
        "UPDATE documents SET size = ?, mtime_ns = ?, racy = ? WHERE id = ?",
        [(item.size, item.mtime_ns, int(racy), document) for document, item, racy in touched],
    )


def remove_documents(manifest: Manifest, documents: Iterable[int]) -> None:
    """Delete documents with their chunks; call it in a transaction."""
    ids = [(document,) for document in documents]
    manifest.db.executemany("DELETE FROM chunks WHERE document = ?", ids)
    manifest.db.executemany("DELETE FROM derived WHERE document = ?", ids)
    manifest.db.executemany("DELETE FROM documents WHERE id = ?", ids)


def remove_staged(manifest: Manifest, generation: int, seq: int) -> None:
    """Delete everything written under heads after `seq`; call it in a transaction."""
    found = manifest.query("SELECT id FROM documents WHERE generation = ? AND seq > ?", (generation, seq))
    remove_documents(manifest, (row[0] for row in found))
    manifest.db.execute("DELETE FROM segments WHERE generation = ? AND seq > ?", (generation, seq))


def ids_of(manifest: Manifest, documents: Iterable[int]) -> list[bytes]:
    """The chunk ids of some documents."""
    ids: list[bytes] = []
    for document in documents:
        ids += [row[0] for row in manifest.query("SELECT id FROM chunks WHERE document = ?", (document,))]
    return ids


def live_ids(manifest: Manifest, generation: int) -> list[bytes]:
    """Every chunk id that the manifest holds for a generation."""
    return [row[0] for row in manifest.query("SELECT id FROM chunks WHERE generation = ?", (generation,))]


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
