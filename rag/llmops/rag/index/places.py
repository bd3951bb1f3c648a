"""Where the store of each generation is: recorded in the manifest, so that whoever reads needs no configuration.

Knows which module serves which engine, and how a store moves: a new one is begun beside the old, adopted in one
transaction when it is whole, and only then is the old one dropped. What a kill leaves behind is noted before it is
begun, and dropped by the next refresh. Loads no engine.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.core.errors import LlmopsError
from llmops.core.files import sync_directory, write_atomic
from llmops.core.ids import new_id
from llmops.rag.config import StoreConfig
from llmops.rag.disk import storage_errors
from llmops.rag.index.store import Place
from llmops.rag.manifest import Head, Manifest

_log = logging.getLogger("llmops.rag.index")

_LEFT = "stores_left"
"""Fact: stores to be dropped, as a list of [generation, what was kept of it]."""
_READING_S = 1.0
"""A request does not wait longer than this for a server: the exact scan answers in its place."""


@dataclass(frozen=True)
class Kept:
    """Where one generation's store is; `collection` is its name on a server, and empty in a folder."""

    config: StoreConfig = field(default_factory=StoreConfig)
    collection: str = ""

    @property
    def address(self) -> tuple[str | None, str]:
        """Differs from that of every other store of the generation."""
        return self.config.url, self.collection

    def is_at(self, config: StoreConfig) -> bool:
        """Whether a configuration means this very place, whatever its token and its patience."""
        names = ("engine", "url", "tenant", "database")
        return all(getattr(self.config, name) == getattr(config, name) for name in names)

    def as_json(self) -> dict[str, Any]:
        return {"config": self.config.model_dump(mode="json", exclude_defaults=True), "collection": self.collection}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Kept:
        return cls(StoreConfig.model_validate(value["config"]), value["collection"])


def kept_of(manifest: Manifest, generation: str) -> Kept:
    """What is recorded of a generation's store; Chroma in the index's folder where nothing is."""
    found = manifest.fact(_fact(generation))
    return Kept.from_json(json.loads(found)) if found else Kept()


def place_of(manifest: Manifest, generation: str, *, reading: bool = False) -> Place:
    """Where a generation's store is.

    Args:
        reading: for one request: a server is asked once, and not for long.
    """
    return at(manifest.folder, generation, kept_of(manifest, generation), reading=reading)


def at(folder: Path, generation: str, kept: Kept, *, reading: bool = False) -> Place:
    """The place that was recorded, of an index in `folder`."""
    config, patience_s = kept.config, kept.config.patience_s
    if config.url is None:
        from llmops.rag.index.chroma import ChromaFolder

        return ChromaFolder(folder / "chroma" / generation)
    if reading:
        config, patience_s = config.model_copy(update={"timeout_s": min(config.timeout_s, _READING_S)}), 0.0
    if config.engine == "milvus":
        from llmops.rag.index.milvus import MilvusServer

        return MilvusServer(config, kept.collection, patience_s)
    from llmops.rag.index.chroma_server import ChromaServer

    return ChromaServer(config, kept.collection, patience_s)


def stamp_of(manifest: Manifest, generation: str) -> str | None:
    """How a generation's store looked when it was last whole: a shared manifest can't tell of this machine's folder."""
    if not _is_ours_alone(manifest, generation):
        return manifest.store_stamp(manifest.generation(generation))
    return _read(_note_of(manifest, generation, "stamp"))


def set_stamp(manifest: Manifest, generation: str, stamp: str | None) -> None:
    if not _is_ours_alone(manifest, generation):
        manifest.set_store_stamp(manifest.generation(generation), stamp)
    else:
        _write(_note_of(manifest, generation, "stamp"), stamp)


def follows(manifest: Manifest, generation: str, head: Head | None) -> bool:
    """Whether a store holds just the ids of a head: one in this machine's folder may be behind another machine."""
    if head is None or not _is_ours_alone(manifest, generation):
        return True
    return _read(_note_of(manifest, generation, "digest")) == head.digest


def follow(manifest: Manifest, generation: str, head: Head | None) -> None:
    """Record which head's ids a store holds; None while that is uncertain."""
    if _is_ours_alone(manifest, generation):
        _write(_note_of(manifest, generation, "digest"), None if head is None else head.digest)


def behind(manifest: Manifest) -> set[int]:
    """The generations with a store in this machine's folder that does not hold what another machine changed."""
    return {
        number
        for number, name in manifest.generations()
        if not follows(manifest, name, manifest.head(number)) and place_of(manifest, name).exists()
    }


def begin(manifest: Manifest, generation: str, config: StoreConfig) -> Kept:
    """Where a store is to be made anew; on a server under a name of its own, noted so that a kill leaves no orphan."""
    if config.url is None:
        return Kept(config)
    index = "".join(char if char.isalnum() and char.isascii() else "_" for char in manifest.folder.name)
    kept = Kept(config, f"llmops_{index[:60]}_{generation}_{new_id()[-12:]}")
    with manifest.transaction():
        _note_left(manifest, [*_left(manifest), (generation, kept)])
    return kept


def adopt(manifest: Manifest, generation: str, kept: Kept) -> None:
    """Make a whole store the generation's, and the one before it superfluous; call it in a transaction."""
    before = kept_of(manifest, generation)
    left = [entry for entry in _left(manifest) if entry[0] != generation or entry[1].address != kept.address]
    if before.address != kept.address and at(manifest.folder, generation, before).exists():
        left.append((generation, before))
    _note_left(manifest, left)
    keep(manifest, generation, kept)


def keep(manifest: Manifest, generation: str, kept: Kept) -> None:
    """Record where a generation's store is."""
    manifest.set_fact(_fact(generation), json.dumps(kept.as_json(), sort_keys=True))


def drop_left(manifest: Manifest, config: StoreConfig | None = None) -> None:
    """Drop the stores that no generation has any more; one that can't be reached is tried again next time.

    Args:
        config: its credentials are taken where a store was left at this very place, as the old ones may be outdated.
    """
    left = _left(manifest)
    remaining = []
    for generation, kept in left:
        known = Kept(config, kept.collection) if config is not None and kept.is_at(config) else kept
        place = at(manifest.folder, generation, known, reading=True)
        try:
            place.drop()
        except LlmopsError as error:
            _log.warning("the store that was left in %s stays for now: %s", place.where, error.what)
            remaining.append((generation, kept))
    if remaining != left:
        with manifest.transaction():
            _note_left(manifest, remaining)


def leave(manifest: Manifest, generation: str) -> None:
    """Note the store of a generation that is deleted as one to be dropped; call it in the deleting transaction."""
    kept = kept_of(manifest, generation)
    if at(manifest.folder, generation, kept).exists():
        _note_left(manifest, [*_left(manifest), (generation, kept)])
    manifest.db.execute("DELETE FROM facts WHERE name = ?", (_fact(generation),))


def reach(config: StoreConfig) -> str:
    """Ask the server of a configuration, once; says in one line what answered, or where the store would be.

    Raises:
        UnavailableError: it does not answer.
        ConfigError: it refuses the credentials, or its client is not installed.
        NotFoundError: it has no such database.
    """
    if config.url is None:
        return "Chroma, in the index's folder"
    config = config.model_copy(update={"timeout_s": min(config.timeout_s, _READING_S)})
    place = at(Path(), "", Kept(config))
    if config.engine == "milvus":
        from llmops.rag.index import milvus

        return f"{place.where}, {milvus.version(config)}"
    from llmops.rag.index import chroma_server

    return f"{place.where}, API {chroma_server.version(config)}"


def _is_ours_alone(manifest: Manifest, generation: str) -> bool:
    return manifest.db.is_shared and kept_of(manifest, generation).config.url is None


def _note_of(manifest: Manifest, generation: str, what: str) -> Path:
    return manifest.folder / "chroma" / f"{generation}.{what}"


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _write(path: Path, text: str | None) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            write_atomic(path, text.encode())
        elif path.exists():
            path.unlink()
            sync_directory(path.parent)


def _left(manifest: Manifest) -> list[tuple[str, Kept]]:
    found = json.loads(manifest.fact(_LEFT) or "[]")
    return [(generation, Kept.from_json(kept)) for generation, kept in found]


def _note_left(manifest: Manifest, left: list[tuple[str, Kept]]) -> None:
    if left or manifest.fact(_LEFT) is not None:
        manifest.set_fact(_LEFT, json.dumps([(generation, kept.as_json()) for generation, kept in left]))


def _fact(generation: str) -> str:
    return f"store/{generation}"
