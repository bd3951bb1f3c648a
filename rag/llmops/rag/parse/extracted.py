"""What a parser is allowed and what it gives back. Knows no format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops.rag.document import PageSpan

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one document may cost."""

    max_bytes: int
    max_text_chars: int


@dataclass(frozen=True, slots=True)
class Extracted:
    """The text of one document, before anything is checked."""

    text: str
    title: str | None = None
    pages: tuple[PageSpan, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


def printable(text: str) -> str:
    """Without control characters and halves of surrogate pairs, which some files hold and no store takes."""
    return _UNPRINTABLE.sub("", text) if _UNPRINTABLE.search(text) else text
