"""What rag checks of its own kinds when a version is validated: that a registered index is there, and has a head.

Knows manifests. It is found by entry point (`llmops.kinds`), so that registry knows no index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmops.core.errors import LlmopsError, NotFoundError
from llmops.core.names import Name
from llmops.rag.manifest import Manifest

if TYPE_CHECKING:
    from llmops.registry.gates import Checking, Finding


def check_index(checking: Checking) -> Iterator[Finding]:
    """That the generation a version names is in the index's manifest, and was ingested to its end at least once."""
    from llmops.registry.gates import Finding

    place, _, generation = checking.version.source.partition("#")
    try:
        name = str(Name.parse(place.rpartition("/")[2]))
        manifest = Manifest.open(checking.registry.state, name)
        try:
            head = manifest.head(manifest.generation(generation))
        finally:
            manifest.close()
        if head is None:
            raise NotFoundError(f"generation `{generation}` was never ingested to its end", hint="run `llmops ingest`")
    except LlmopsError as error:
        yield Finding("index", "fail", error.what, measured=error.error_code, hint=error.hint)
        return
    measured = {"seq": head.seq, "digest": head.digest, "chunks": head.chunks}
    if not head.chunks:
        yield Finding("index", "fail", "the index is empty", measured=measured, hint="are there documents?")
        return
    yield Finding("index", "pass", f"the generation is there, with {head.chunks:,} chunks", measured=measured)
