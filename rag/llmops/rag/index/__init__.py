"""The index as retrieval sees it: consistent snapshots that follow the head of a generation.

`open_index` is the door. Importing this package loads neither numpy nor chromadb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmops.core.state import StateConfig
    from llmops.rag.index.reader import Index


def open_index(state: StateConfig, name: str, generation: str | None = None) -> Index:
    """Open an index for reading.

    Args:
        generation: pins one generation; default: the one that was refreshed last.

    Raises:
        NotFoundError: no such index or generation, or it was never ingested to its end.
    """
    from llmops.rag.index.reader import Index

    return Index.open(state, name, generation)
