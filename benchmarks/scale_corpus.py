"""Large indexes to measure on: 60,000 files with 100,000 chunks through the real ingest, and 1,000,000 chunks.

Words are those of SciFact's abstracts, sentences shuffled together, so that terms are as common as in real text.
Vectors are real embeddings of its sentences, moved by noise of the same covariance: as clustered as real ones, and a
real question's vector lies among them. Made once, in the folder that `LLMOPS_SCALE` names (default: .benchmarks).
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import question_sets
from llmops.core.state import StateConfig
from llmops.rag import lexicon, records
from llmops.rag.arena import Arena, checksums
from llmops.rag.config import FolderSource, IndexConfig
from llmops.rag.document import Parsed, Place, SourceItem
from llmops.rag.ingest.chunk import Passage
from llmops.rag.ingest.refresh import Options, Refresh, refresh
from llmops.rag.manifest import Manifest

ROOT = Path(os.environ.get("LLMOPS_SCALE", question_sets.ROOT)) / "scale"
DIMENSION = 384
POOL = 4096
FILES = 60_000
SHARES = {"1%": 0.01, "5%": 0.05, "50%": 0.50, "rest": 0.44}
"""Folders by the share of the files that lies in them; each is a value of the metadata `share`."""
LARGE = 1_000_000
_BATCH = 20_000
_EACH = 200


class SyntheticEmbedder:
    """A unit vector that follows from the text's hash, near that of some real sentence."""

    fingerprint = "synthetic-1"
    dimension = DIMENSION

    def embed(self, texts: Sequence[str], on_batch: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        seeds = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") for text in texts]
        if on_batch is not None:
            on_batch(len(texts))
        return around(np.array(seeds, dtype=np.uint64))


def around(seeds: NDArray[np.uint64]) -> NDArray[np.float32]:
    """One vector a seed: a real one, half the difference of two others, and a little noise."""
    pool = real_vectors()
    first, second, third, fourth = (seeds >> np.uint64(shift) & np.uint64(POOL - 1) for shift in (0, 12, 24, 36))
    vectors = pool[first] + 0.5 * (pool[second] - pool[third]) + _noise()[fourth]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


@cache
def sentences() -> list[str]:
    data = question_sets.data_folder()
    assert data is not None
    lines = question_sets._lines(data / "scifact" / "corpus.jsonl")
    return [part for line in lines for part in line["text"].split(". ") if 40 <= len(part) <= 400]


@cache
def real_vectors() -> NDArray[np.float32]:
    """The embeddings of the first sentences, computed once."""
    path = ROOT / "real.npy"
    if not path.exists():
        from llmops.rag.config import EmbeddingConfig
        from llmops.rag.embed import open_embedder, resolve

        cache_folder = question_sets.ROOT / "state" / "cache"
        cache_folder.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        embedder = open_embedder(resolve(EmbeddingConfig(), cache_folder), cache_folder)
        np.save(path, embedder.embed(sentences()[:POOL]))
    return np.asarray(np.load(path))


@cache
def _noise() -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(POOL, DIMENSION), scale=0.01).astype(np.float32)


def paragraph(chance: np.random.Generator) -> str:
    """About 700 characters: one chunk."""
    text = ""
    while len(text) < 560:
        text += sentences()[int(chance.integers(len(sentences())))] + ". "
    return text[:740].strip()


def index_of(files: int) -> tuple[IndexConfig, StateConfig]:
    """The configuration of the index over so many files."""
    sources = tuple(FolderSource(path=str(_folder(files) / share), metadata={"share": share}) for share in SHARES)
    return IndexConfig(name=f"scale.files{files}.index", sources=sources), StateConfig(dir=ROOT / "state")


def lay_out(files: int) -> None:
    """Write the documents: two of three with two paragraphs, 500 to a folder."""
    folder = _folder(files)
    if (folder / "whole").exists():
        return
    _tell(f"writing {files:,} files")
    chance, number = np.random.default_rng(files), 0
    for share, part in SHARES.items():
        for n in range(round(files * part)):
            place = folder / share / f"{n // 500:03d}"
            place.mkdir(parents=True, exist_ok=True)
            body = "\n\n".join(paragraph(chance) for _ in range(2 if number % 3 else 1))
            path = place / f"note {n}.md"
            path.write_text(f"# Note {number}\n\n{body}\n", encoding="utf-8")
            os.utime(path, (time.time() - 1000,) * 2)
            number += 1
    (folder / "whole").touch()


def ingest(files: int) -> Refresh:
    """Through the real ingest, vector store included."""
    lay_out(files)
    config, state = index_of(files)
    _tell(f"ingesting {files:,} files")
    return refresh(config, state, Options(embedder=SyntheticEmbedder()))


def large(chunks: int = LARGE) -> tuple[StateConfig, str]:
    """An index of so many chunks, written straight into manifest, arena and lexical segments, with no vector store."""
    state, name = StateConfig(dir=ROOT / "state"), f"scale.chunks{chunks}.index"
    state.index(name).mkdir(parents=True, exist_ok=True)
    manifest = Manifest.open(state, name, create=True)
    try:
        number = manifest.add_generation("large", {"embedder": SyntheticEmbedder.fingerprint, "embedder_spec": None})
        if manifest.head(number) is None:
            _write_large(manifest, number, chunks)
    finally:
        manifest.close()
    return state, name


def _write_large(manifest: Manifest, number: int, chunks: int) -> None:
    """Batch by batch; a run that was stopped goes on where it was."""
    embedder = SyntheticEmbedder.fingerprint
    record = manifest.arena(embedder) or manifest.add_arena(embedder, "vectors/large.f32", DIMENSION)
    arena = Arena(manifest.folder / record.file, DIMENSION, record.slots)
    try:
        for row in range(record.slots, chunks, _BATCH):
            documents = list(_documents(row, min(_BATCH, chunks - row)))
            keys = [key for document in documents for key in document.keys]
            texts = [passage.indexed_text for document in documents for passage in document.passages]
            vectors = around(np.array([int.from_bytes(key[:8], "big") for key in keys], dtype=np.uint64))
            first, sums = arena.append(vectors), checksums(vectors)
            with manifest.transaction():
                rows = [(key, record.id, first + n, sums[n]) for n, key in enumerate(keys)]
                manifest.db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", rows)
                manifest.db.execute("UPDATE arenas SET slots = ? WHERE id = ?", (arena.slots, record.id))
                records.stage(manifest, (number, 1), documents, row)
                lexicon.add(manifest, number, 1, [(row + n, text) for n, text in enumerate(texts)])
            _tell(f"written {row + len(keys):,} of {chunks:,} chunks")
    finally:
        arena.close()
    with manifest.transaction():
        lexicon.tidy(manifest, number, chunks)
        ids = records.chunk_ids_of(manifest, number)
        values = (number, 1, ids.digest, chunks, -(-chunks // _EACH), ids.number, time.time())
        manifest.db.execute("INSERT INTO heads VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    manifest.db.checkpoint()


def _documents(row: int, count: int) -> Iterator[records.StagedDocument]:
    """Documents of 200 chunks; one of 100 is of the share 1%, five are of 5%, half of 50%."""
    chance = np.random.default_rng(row + 1)
    for first in range(row, row + count, _EACH):
        place = first // _EACH % 100
        share = "1%" if place < 1 else "5%" if place < 6 else "50%" if place < 56 else "rest"
        uri = f"large/{first // _EACH}.md"
        passages, text = [], ""
        for ordinal in range(_EACH):
            words = paragraph(chance)
            passages.append(Passage(len(text), len(text) + len(words), None, words, "", ordinal))
            text += words + "\n\n"
        parsed = Parsed(uri, text, (), "text/markdown", {}, hashlib.sha256(text.encode()).hexdigest())
        item = SourceItem(uri, uri, Place.of(uri), len(text), 0, ("everyone",), {"share": share})
        texts = [passage.indexed_text for passage in passages]
        keys = [records.vector_key(f"{uri} {n} {words}", "synthetic-1") for n, words in enumerate(texts)]
        yield records.StagedDocument(item, False, parsed, passages, records.chunk_ids(uri, texts), keys)


def _folder(files: int) -> Path:
    return ROOT / f"files{files}"


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
