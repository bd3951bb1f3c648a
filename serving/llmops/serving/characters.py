"""Whole characters out of pieces: an LLM may cut its stream inside an emoji, and half of one is no text.

Knows UTF-16's surrogate pairs and nothing else.
"""

from __future__ import annotations


class CharacterJoiner:
    """Gives pieces on with a half character held back until its other half comes."""

    def __init__(self) -> None:
        self._held = ""

    def join(self, piece: str) -> str:
        if not self._held and is_text(piece):
            return piece
        piece = self._held + piece
        self._held = ""
        if "\ud800" <= piece[-1:] <= "\udbff":
            piece, self._held = piece[:-1], piece[-1]
        return whole_characters(piece)


def is_text(piece: str) -> bool:
    """Whether the piece can be written as UTF-8."""
    try:
        piece.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole_characters(text: str) -> str:
    """The text with its pairs joined and lone halves replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
