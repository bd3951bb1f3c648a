"""Removes what an index need not keep any longer: generations that nobody answers from, tombstones past their time.

A generation is in use while it, or a chain that was made with it, holds an alias or is named by an endpoint. Those are
never removed, nor is the one refreshed last. Knows the registry's door, and `ingest.cleaning`, which does it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmops.rag.following import generation_of
from llmops.rag.manifest import CURRENT, Manifest

if TYPE_CHECKING:
    from llmops.rag.config import RagConfig
    from llmops.registry.assets import Registry

_DAY_S = 86_400.0


@dataclass(frozen=True)
class Cleaned:
    """What went: names of generations, and how many tombstones."""

    generations: tuple[str, ...] = ()
    tombstones: int = 0


def retain(job: RagConfig, registry: Registry) -> Cleaned:
    """Carry out `index.retention`.

    Raises:
        ConflictError: another process refreshes this index.
    """
    wanted = job.index.retention
    if wanted.generations is None and wanted.tombstones_days is None:
        return Cleaned()
    from llmops.rag.ingest import cleaning

    with Manifest.writing(job.state, job.index.name) as manifest:
        gone: list[str] = []
        if wanted.generations is not None:
            used = in_use(registry, job.index.name) | {manifest.fact(CURRENT)}
            names = [name for _, name in manifest.generations()]
            gone = [name for name in names[: -wanted.generations] if name not in used]
            cleaning.remove_generations(manifest, gone)
        lifted = 0
        if wanted.tombstones_days is not None:
            lifted = cleaning.lift_tombstones(manifest, time.time() - wanted.tombstones_days * _DAY_S)
    return Cleaned(tuple(gone), lifted)


def in_use(registry: Registry, index: str) -> set[str]:
    """The generations of an index that somebody may be answered from."""
    from llmops.core.errors import NotFoundError
    from llmops.registry.lineage import Relation

    try:
        versions = registry.versions(index)
    except NotFoundError:
        return set()
    used = set()
    for version in versions:
        resting = registry.lineage(version.ref, impact=True)
        served = any(found.aliases or found.edge.relation is Relation.SERVED_BY for found in resting)
        if version.aliases or served:
            used.add(generation_of(version.source, index))
    return used
