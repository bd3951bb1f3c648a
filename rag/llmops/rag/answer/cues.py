"""Which kind of thing a question asks for (a person, a time, a number, a place), and whether a sentence names one.

English question words and the shapes of names, dates and numbers; for any other question it has no opinion.
"""

from __future__ import annotations

import re

_ASKED = {
    "number": re.compile(
        r"\bhow (?:many|much|long|old|far|large|big|tall|often|high|fast)\b"
        r"|\bwhat (?:percent|percentage|number|year|proportion|amount|share)\b",
        re.IGNORECASE,
    ),
    "time": re.compile(r"\bwhen\b|\b(?:what|which) (?:year|date|day|month|decade|century|time)\b", re.IGNORECASE),
    "person": re.compile(
        r"\bwho(?:m|se)?\b|\b(?:what|which) (?:person|man|woman|king|queen|president|author|player|general)\b",
        re.IGNORECASE,
    ),
    "place": re.compile(
        r"\bwhere\b|\b(?:what|which) (?:city|country|state|place|location|river|region|town)\b", re.IGNORECASE
    ),
}
_NUMBER = re.compile(
    r"\d+|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand|million|billion"
    r"|half|third|quarter|once|twice|percent|first|second)\b",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"\b1[0-9]{3}\b|\b20[0-9]{2}\b|centur|\b\d{1,2}(?:st|nd|rd|th)\b|\b\d{1,2}:\d{2}\b"
    r"|\b(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?<!^)(?<![.!?] )\b[A-ZÀ-ÖØ-Þ][\w’'-]+")


def asked_kinds(question: str) -> frozenset[str]:
    """The kinds of answer that the question's words ask for."""
    return frozenset(kind for kind, pattern in _ASKED.items() if pattern.search(question))


def answers_kind(kinds: frozenset[str], question: str, sentence: str) -> float:
    """1 where the sentence names something of an asked kind that the question does not name, 0 where it does not.

    0.5 where the question asks for no kind known here.
    """
    if not kinds:
        return 0.5
    lowered = question.lower()
    return float(any(_names(kind, lowered, sentence) for kind in kinds))


def _names(kind: str, question: str, sentence: str) -> bool:
    if kind == "time":
        return _TIME.search(sentence) is not None
    pattern = _NUMBER if kind == "number" else _NAME
    return any(match[0].lower() not in question or match[0].isdigit() for match in pattern.finditer(sentence))
