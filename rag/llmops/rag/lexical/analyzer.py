"""Text to terms: the one place that decides which words of a question meet which words of a passage.

Knows characters and English. Scripts written without spaces are cut per character, which BM25 handles well enough
without a dictionary; every other language is cut into words and left unstemmed where the English stemmer has no rule.
"""

from __future__ import annotations

import re
import threading
import unicodedata

import Stemmer

# Lucene's default English stop set (EnglishAnalyzer), and the two ends that "don't" and "it's" leave behind.
STOP_WORDS = frozenset(
    [
        "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it",
        "no", "not", "of", "on", "or", "such", "that", "the", "their", "then", "there",
        "these", "they", "this", "to", "was", "will", "with", "s", "t",
    ]
)  # fmt: skip

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED += "\U00020000-\U0003ffff"
# Vowel signs and accents are no letters to `re`; without them a Hindi or a pointed Hebrew word falls to pieces.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_ASCII = bytes(ord(chr(code).lower()) if code < 128 and chr(code).isalnum() else 32 for code in range(256))
"""Leaves words and spaces of an ASCII text: cut at those it takes two thirds of a regular expression's time."""
_WORD = re.compile(rf"[{_UNSPACED}]|(?:[^\W_{_UNSPACED}]|[{_MARKS}])+")

_NOTHING = frozenset([""])
_SAMPLED = frozenset("cps")
"""Beginnings of a third of the words that are not stop words."""
_CACHE_WORDS = 400_000

FINGERPRINT = f"en-1+snowball-{Stemmer.version()}"
"""Names the rules above. Segments made under other rules are refused: their terms would silently miss."""


def analyze(text: str) -> list[str]:
    """The terms of a text, in order: lower-case words and numbers, stemmed, without stop words."""
    return [term for term in map(_terms.__getitem__, _words(text)) if term]


def vocabulary(text: str) -> frozenset[str]:
    """The distinct terms of a text."""
    return frozenset(map(_terms.__getitem__, set(_words(text)))) - _NOTHING


def sample(text: str) -> tuple[frozenset[str], int]:
    """Those terms of `vocabulary` that begin with certain letters, and how many terms it has at most.

    Stemming leaves a word's first letter: only the words that begin with one of those need to be stemmed.
    """
    words = _words(text)
    some = {word for word in words if word[0] in _SAMPLED}
    return frozenset(map(_terms.__getitem__, some)) - _NOTHING, len(words)


def _words(text: str) -> list[str]:
    if text.isascii():
        return text.encode().translate(_ASCII).decode().split()
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


class _Terms(dict[str, str]):
    """Word -> stem, or the empty string for a stop word; each word is stemmed once. Bounded by starting over."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._stemmer = Stemmer.Stemmer("english", 0)

    def __missing__(self, word: str) -> str:
        with self._lock:  # a stemmer holds a buffer: one thread at a time
            term: str = "" if word in STOP_WORDS else self._stemmer.stemWord(word)
            if len(self) >= _CACHE_WORDS:
                self.clear()
            self[word] = term
        return term


_terms = _Terms()
