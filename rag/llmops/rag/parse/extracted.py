"""What a parser is allowed and what it gives back. Knows no format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops.rag.document import PageSpan

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_BETWEEN = "\n\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one document may cost.

    Attributes:
        ocr: the languages to read pictures in, as `eng+deu`; None where they are not read.
    """

    max_bytes: int
    max_text_chars: int
    ocr: str | None = None


@dataclass(frozen=True, slots=True)
class Extracted:
    """The text of one document, before anything is checked."""

    text: str
    title: str | None = None
    pages: tuple[PageSpan, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


def paged(texts: Sequence[str]) -> tuple[str, tuple[PageSpan, ...]]:
    """Pages as one text, and where each of them stands in it."""
    spans = []
    position = 0
    for number, text in enumerate(texts, start=1):
        spans.append(PageSpan(number, position, position + len(text)))
        position += len(text) + len(_BETWEEN)
    return _BETWEEN.join(texts), tuple(spans)


def printable(text: str) -> str:
    """Without control characters and halves of surrogate pairs, which some files hold and no store takes."""
    return _UNPRINTABLE.sub("", text) if _UNPRINTABLE.search(text) else text
