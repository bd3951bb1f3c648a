"""Whether two passages say nearly the same words, without a look at most words of those that do not.

Knows the terms of two texts. What becomes of a passage that repeats another is its caller's to say.
"""

from __future__ import annotations

from functools import cached_property

from llmops.rag.lexical import sample, vocabulary

_ALIKE = 0.9
"""The share of common terms (Jaccard index) from which on two passages count as copies."""


class Wording:
    """The terms of one passage; those of a sample first, since they tell most passages apart."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sample, self._most = sample(text)

    def is_like(self, other: Wording) -> bool:
        """Whether both share nearly all their terms.

        Texts of n and m terms that are alike have at most (n + m) / 1.9 between them, and of these a tenth in only one:
        where the samples alone differ by more, the texts are not.
        """
        bound = (1 - _ALIKE) / (1 + _ALIKE) * (self._most + other._most)
        return len(self._sample ^ other._sample) <= bound + 1e-6 and _share(self._terms, other._terms)

    @cached_property
    def _terms(self) -> frozenset[str]:
        return vocabulary(self._text)


def alike(text: str, other: str) -> bool:
    """Whether two passages say nearly the same words."""
    return text == other or Wording(text).is_like(Wording(other))


def _share(terms: frozenset[str], other: frozenset[str]) -> bool:
    if not terms or not other or min(len(terms), len(other)) < _ALIKE * max(len(terms), len(other)):
        return terms == other
    shared = len(terms & other)
    return shared >= _ALIKE * (len(terms) + len(other) - shared)
