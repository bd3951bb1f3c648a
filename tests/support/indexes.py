"""What an index holds, in a form that can be compared with another build of the same documents."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from tests.support.embedder import WordEmbedder

from llmops.core.identity import Principal
from llmops.core.state import StateConfig
from llmops.rag.config import ChunkingConfig, FolderSource, IndexConfig, StoreConfig
from llmops.rag.index.places import place_of, stamp_of
from llmops.rag.index.snapshot import Snapshot
from llmops.rag.ingest.refresh import Options, Refresh, refresh
from llmops.rag.manifest import Manifest

NAME = "dev.docs.index"
QUERIES = ("budget river", "alpha", "the committee on rivers", "page", "zzz")
EVERYBODY = Principal("tester", groups=frozenset({"hr", "finance"}))


@dataclasses.dataclass
class Workplace:
    """A folder of documents, and the configuration that indexes it into a state folder."""

    docs: Path
    state: StateConfig
    embedder: WordEmbedder = dataclasses.field(default_factory=WordEmbedder)
    chunk_chars: int = 200
    acl: tuple[str, ...] = ("everyone",)
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    store: StoreConfig = dataclasses.field(default_factory=StoreConfig)

    @classmethod
    def at(cls, folder: Path) -> Workplace:
        docs = folder / "docs"
        docs.mkdir(parents=True)
        return cls(docs, StateConfig(dir=folder / "state"))

    @classmethod
    def shared(cls, folder: Path, sql_url: str) -> Workplace:
        """A machine whose manifest is in a database."""
        place = cls.at(folder)
        return dataclasses.replace(place, state=StateConfig(dir=folder / "state", sql_url=sql_url))

    def other_machine(self) -> Workplace:
        """The same documents and the same database, with another folder."""
        state = self.state.model_copy(update={"dir": self.state.dir.with_name(f"{self.state.dir.name}-other")})
        return dataclasses.replace(self, state=state)

    @property
    def config(self) -> IndexConfig:
        source = FolderSource(path=str(self.docs), acl=self.acl, metadata=self.metadata)
        chunking = ChunkingConfig(size_chars=self.chunk_chars)
        return IndexConfig(name=NAME, sources=(source,), chunking=chunking, store=self.store)

    @property
    def job(self) -> dict[str, Any]:
        """A refresh as a zygote is told."""
        state = {"state": str(self.state.dir), "sql_url": self.state.sql_url}
        return {"config": self.config.model_dump(mode="json"), **state, "embedder": self.embedder.fingerprint}

    @property
    def folder(self) -> Path:
        return self.state.index(NAME)

    def write(self, name: str, text: str) -> Path:
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def refresh(self, **options: Any) -> Refresh:
        return refresh(self.config, self.state, Options(embedder=self.embedder, **options))

    def scratch(self, folder: Path) -> Workplace:
        """The same documents under the same configuration, to be built from nothing."""
        return dataclasses.replace(self, state=StateConfig(dir=folder))


def contents(state: StateConfig, generation: str) -> dict[str, Any]:
    """Everything that a build decides, by chunk id and uri; row numbers, slots and sequence numbers are not part."""
    snapshot = Snapshot(Manifest.open(state, NAME), generation, {})
    try:
        rows = sorted(snapshot.row_of.values())
        chunks = dict(zip(rows, snapshot.chunks(rows), strict=True))
        id_of = {row: chunk.id for row, chunk in chunks.items()}
        scores = {q: snapshot.lexical.scored(q) for q in QUERIES}
        lexical = {q: {id_of[row]: scored.every[row] for row in rows} for q, scored in scores.items()}
        vectors = {id_of[row]: snapshot.vectors[snapshot.slots[row]].tobytes() for row in rows}
        held = stored(state, generation)
        for chunk in chunks.values():
            assert np.allclose(held[chunk.id], snapshot.vectors[snapshot.slots[snapshot.row_of[chunk.id]]], atol=1e-5)
        uris = sorted({chunk.uri for chunk in chunks.values()})
        documents = {uri: snapshot.document(uri, EVERYBODY) for uri in uris}
        return {
            "digest": snapshot.head.digest,
            "counts": (snapshot.head.documents, snapshot.head.chunks),
            "chunks": {chunk.id: dataclasses.asdict(chunk) for chunk in chunks.values()},
            "documents": {uri: dataclasses.asdict(document) for uri, document in documents.items()},
            "vectors": vectors,
            "lexical": lexical,
            "store": sorted(held),
        }
    finally:
        snapshot.close()


def stored(state: StateConfig, generation: str) -> dict[str, Any]:
    """The ids and vectors that the vector store holds."""
    manifest = Manifest.open(state, NAME)
    try:
        stamp = stamp_of(manifest, generation)
        store = place_of(manifest, generation).open(stamp)
    finally:
        manifest.close()
    try:
        ids = store.ids()
        assert len(ids) == len(set(ids))
        return store.vectors(ids)
    finally:
        store.close()
