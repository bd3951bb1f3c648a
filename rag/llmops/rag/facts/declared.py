"""Facts that a model may state of a document, as they were declared; what it says beyond that is dropped, and counted.

Knows values and JSON. What a model says is data: of another type, or not among the allowed values, it is no fact.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from llmops.rag.parse.extracted import printable

if TYPE_CHECKING:
    from llmops.rag.facts.config import DeclaredFact

_MOST_CHARS = 200
_MOST_VALUES = 50
_MOST_INTEGER = 2**53
_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?")
_NUMBER = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?")


@dataclass(frozen=True, slots=True)
class Stated:
    """What a reply states. `dropped`: values that are not as declared."""

    facts: Mapping[str, Any]
    dropped: int


class UnreadableReplyError(ValueError):
    """The reply is not the JSON that was asked for."""


def read_reply(reply: str, declared: Sequence[DeclaredFact]) -> Stated:
    """The facts of a reply.

    Raises:
        UnreadableReplyError: there is no object of facts in it.
    """
    start, end = reply.find("{"), reply.rfind("}")
    try:
        found = json.loads(reply[start : end + 1] if 0 <= start < end else "")
    except (ValueError, RecursionError) as error:
        raise UnreadableReplyError("the model's reply is no JSON") from error
    if isinstance(found, dict) and isinstance(found.get("facts"), dict):
        found = found["facts"]
    if not isinstance(found, dict):
        raise UnreadableReplyError("the model's reply states no facts")
    known = {fact.name: fact for fact in declared}
    facts: dict[str, Any] = {}
    dropped = 0
    for name, said in found.items():
        if said is None or said in ("", []):
            continue
        values = said if isinstance(said, list) else [said]
        kept = _kept(values, known[name]) if name in known else []
        dropped += len(values) - len(kept)
        if kept:
            facts[name] = list(dict.fromkeys(kept)) if known[name].many else kept[0]
    return Stated(facts, dropped)


def _kept(values: Sequence[Any], fact: DeclaredFact) -> list[Any]:
    if len(values) > (_MOST_VALUES if fact.many else 1):
        return []
    read = (_READERS[fact.type](value) for value in values)
    return [found for value in read if value is not None and (found := _allowed(value, fact)) is not None]


def _allowed(value: Any, fact: DeclaredFact) -> Any:
    """The allowed value that is meant, as it was declared; None where it is none of them."""
    if not fact.values:
        return value
    folded = value.casefold() if isinstance(value, str) else value
    return next((one for one in fact.values if (one.casefold() if isinstance(one, str) else one) == folded), None)


def _text(value: Any) -> str | None:
    text = printable(" ".join(value.split())) if isinstance(value, str) else ""
    return text if 0 < len(text) <= _MOST_CHARS else None


def _number(value: Any) -> float | int | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value if abs(value) <= _MOST_INTEGER else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return None if number is None or number != int(number) else int(number)


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _date(value: Any) -> str | None:
    """A day, a month or a year, as far as it is known: filters count a date as far as it is written."""
    match = _DATE.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        if match is not None:
            date(int(match[1]), int(match[2] or 1), int(match[3] or 1))
            return match[0]
    except ValueError:
        pass
    return None


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "text": _text, "integer": _integer, "number": _number, "boolean": _boolean, "date": _date,
}  # fmt: skip
