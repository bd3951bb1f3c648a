"""Texts as scorers compare them: word by word, without case, punctuation and citation markers."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"\w+")
_MARKER = re.compile(r"\s*\[\d+\]")


def words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", _MARKER.sub("", text)).casefold())


def spaced(text: str) -> str:
    """Words with a space around each, so that one text holds another only word by word."""
    return f" {' '.join(words(text))} "
