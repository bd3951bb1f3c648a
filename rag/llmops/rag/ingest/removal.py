"""Takes documents out of generations that are not being refreshed, and shuts them to whom they are no longer for.

A chain may answer from an older generation than the one that is refreshed; what is deleted, or shown to fewer people,
must hold there too. Nothing is parsed or embedded for it. Knows manifest and writer; which documents, its callers say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmops.rag import records
from llmops.rag.ingest.look import Found, side_by_side
from llmops.rag.ingest.plan import FEW_REMOVED, mass_removal
from llmops.rag.ingest.progress import Meter, silent
from llmops.rag.manifest import Manifest

if TYPE_CHECKING:
    from llmops.rag.document import SourceItem


@dataclass
class Removal:
    """What has to go from one generation. `closed`: documents (by id) whose access list is another now."""

    generation: int
    name: str
    documents: int
    gone: dict[str, int] = field(default_factory=dict)
    closed: list[tuple[SourceItem, int]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.gone or self.closed)


def elsewhere(manifest: Manifest, found: Found, tombstones: Collection[str], but: int) -> list[Removal]:
    """What the sources say of every generation but one: documents that are gone, and access lists that differ."""
    removals = []
    for number, name in manifest.generations():
        if number != but and manifest.head(number) is not None:
            removal = _of_generation(manifest, found, tombstones, Removal(number, name, 0))
            if not removal.is_empty:
                removals.append(removal)
    return removals


def _of_generation(manifest: Manifest, found: Found, tombstones: Collection[str], removal: Removal) -> Removal:
    for listed, stat in side_by_side(found.documents(), records.document_stats(manifest, removal.generation)):
        if stat is None:
            continue
        removal.documents += 1
        if listed is None or stat.uri in tombstones:
            if stat.uri in tombstones or not found.is_hidden(stat.uri):
                removal.gone[stat.uri] = stat.id
        elif listed.acl != stat.acl:
            removal.closed.append((listed.item(), stat.id))
    return removal


def of_uris(manifest: Manifest, uris: Iterable[str]) -> list[Removal]:
    """These documents in every generation that holds one of them."""
    removals: dict[int, Removal] = {}
    names = dict(manifest.generations())
    for uri in uris:
        for document, number in manifest.query("SELECT id, generation FROM documents WHERE uri = ?", (uri,)):
            removals.setdefault(number, Removal(number, names[number], 0)).gone[uri] = document
    return list(removals.values())


def refuse_mass_removal(removals: Iterable[Removal], tombstones: Collection[str], most: float) -> None:
    """Hold the generations that are not refreshed to the same limit as the one that is.

    Raises:
        ConflictError: more than this share of one of them would go; nothing was changed.
    """
    for removal in removals:
        gone = [uri for uri in removal.gone if uri not in tombstones]
        if len(gone) >= FEW_REMOVED and len(gone) > most * removal.documents:
            raise mass_removal(min(gone), removal.documents, len(gone))


def carry_out(manifest: Manifest, removals: Iterable[Removal], doubtful: Iterable[int]) -> None:
    """Commit a head of each generation without these documents; under the ingest lock.

    Args:
        doubtful: generations whose last write was cut off: their stores are put right too.
    """
    left = set(doubtful)
    for removal in removals:
        _commit(manifest, removal, certain=removal.generation not in left)
        left.discard(removal.generation)
    for number, name in manifest.generations():
        if number in left and manifest.head(number) is not None:
            _commit(manifest, Removal(number, name, 0), certain=False)


def _commit(manifest: Manifest, removal: Removal, *, certain: bool) -> None:
    from llmops.rag.ingest.writer import Changes, Target, Writer

    number = removal.generation
    target = Target(number, removal.name, manifest.settings(number)["embedder"], manifest.head(number))
    writer = Writer(manifest, target, Meter("write", silent))
    try:
        writer.begin(certain=certain)
        quarantine = [held for uri, held in manifest.quarantine(number).items() if uri not in removal.gone]
        changes = Changes(removal.gone.values(), removal.closed, visible=not removal.is_empty, quarantine=quarantine)
        writer.commit(changes)
    finally:
        writer.close()
