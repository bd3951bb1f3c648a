"""What an index hands out: hits, chunks, documents. Plain values, safe to keep after the reader moved on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.rag.document import PageSpan

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Rows, best first, and their scores."""

    rows: Rows
    scores: Scores


@dataclass(frozen=True, slots=True)
class Chunk:
    """One indexed unit: the span `start` to `end` of its document's text."""

    id: str
    uri: str
    title: str | None
    page: int | None
    start: int
    end: int
    text: str
    context: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it was indexed; `text` is what all offsets count characters of."""

    uri: str
    title: str | None
    text: str
    pages: tuple[PageSpan, ...]
    acl: tuple[str, ...]
    metadata: Mapping[str, Any]
    media_type: str
    sha256: str
