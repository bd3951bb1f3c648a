"""Finds words and phrases that must not be talked about, however they are dressed up.

Whole words only, where the script has spaces between words; any white space and punctuation may stand between the words
of a phrase. It knows words, not meaning: another way to say the same is not found.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from llmops.core.errors import ConfigError
from llmops.gateway.guard.detectors import Span, rust_matcher
from llmops.gateway.guard.folding import fold, offsets

_BETWEEN = 8  # characters that may stand between two words of a phrase
_SEPARATORS = re.compile(r"[\W_]+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")
"""Thai, Lao, Burmese, Khmer, Kana, Han, Hangul: words stand against each other or carry particles."""


class Topics:
    """A list of words and phrases."""

    def __init__(self, topics: Sequence[str]) -> None:
        phrases = [fold(topic).split() for topic in topics]
        if not phrases or not all(phrases):
            raise ConfigError("the guard `topics` needs words in `topics`", hint="topics: [word, a phrase of words]")
        ordered = sorted(phrases, key=lambda words: -sum(map(len, words)))
        self._form = re.compile("|".join(_form(words) for words in ordered))
        loose = (rf"[\W_]{{1,{_BETWEEN}}}".join(re.escape(word) for word in words) for words in ordered)
        self._matches = rust_matcher("|".join(_for_rust(form) for form in loose))
        self._width = max(sum(map(len, words)) + _BETWEEN * (len(words) - 1) for words in phrases) + 1
        plain = {_SEPARATORS.sub(" ", " ".join(words)) for words in phrases}
        self._beginnings = {phrase[:length] for phrase in plain for length in range(1, len(phrase) + 1)}

    def suspects(self, text: str) -> bool:
        return self._matches(fold(text))

    def spans(self, text: str, start: int = 0) -> Sequence[Span]:
        if text.isascii():
            return [Span(*match.span(), "topic") for match in self._form.finditer(text.lower(), start)]
        places = offsets(text)
        found = []
        for match in self._form.finditer(fold(text), places[start]):
            first = bisect_right(places, match.start()) - 1
            found.append(Span(max(first, start), bisect_left(places, match.end()), "topic"))
        return found

    def open_at(self, text: str, start: int = 0) -> int:
        folded = fold(text)
        places = None if text.isascii() else offsets(text)
        begin = places[start] if places else start
        for place in range(max(begin, len(folded) - self._width), len(folded)):
            if _SEPARATORS.sub(" ", folded[place:]) in self._beginnings:
                return max(start, bisect_right(places, place) - 1) if places else place
        return len(text)


def _form(words: Sequence[str]) -> str:
    phrase = rf"[\W_]{{1,{_BETWEEN}}}".join(map(re.escape, words))
    before = "" if _UNSPACED.match(words[0]) else r"(?<!\w)"
    after = "" if _UNSPACED.match(words[-1][-1]) else r"(?!\w)"
    return f"{before}{phrase}{after}"


def _for_rust(form: str) -> str:
    """The other engine knows no escaped space, hyphen or the like outside of classes; it takes them bare."""
    return re.sub(r"\\([ \-#&~'\"<>@!%,/:;=`_])", r"\1", form)
