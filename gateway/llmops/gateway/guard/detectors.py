"""What every check must be able to say of a text: whether something is there, where, and what may still be coming.

The third answer makes streams safe: of a text that is not whole yet, everything before `open_at` and outside of the
spans is final, whatever follows. Knows no API and no configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from pydantic_core import SchemaError, SchemaValidator, core_schema

CONTEXT_CHARS = 64
"""How far back a detector may look from where it begins."""


class Span(NamedTuple):
    """Something found: `text[start:end]`, to be shown as `[name]`."""

    start: int
    end: int
    name: str
    led_in_by: int | None = None
    """Where the words begin by which it is known (the name before a value), where they come before it."""

    @property
    def begin(self) -> int:
        return self.start if self.led_in_by is None else self.led_in_by


class Detector(Protocol):
    """Finds one sort of thing in text that nobody vouches for: linear in its length, whatever it holds."""

    def suspects(self, text: str) -> bool:
        """Whether a closer look is worth its price. Quick; never False where `spans` would find something."""

    def spans(self, text: str, start: int = 0) -> Sequence[Span]:
        """What is found from `start` on, in order, without overlaps; `text[:start]` is context only."""

    def open_at(self, text: str, start: int = 0) -> int:
        """The least place from `start` on where something may begin that the text does not show whole yet."""


def rust_matcher(pattern: str) -> Callable[[str], bool]:
    """A test whether the pattern occurs, by pydantic-core's regex engine: linear time, no look-around.

    Raises:
        ValueError: not a pattern of that engine.
    """
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")).isinstance_python
    except SchemaError as error:
        raise ValueError(str(error)) from error


def merged(found: Iterable[Span]) -> list[Span]:
    """Spans of several detectors, those that overlap made one that bears the first one's name."""
    result: list[Span] = []
    for span in sorted(found, key=lambda span: (span.start, -span.end)):
        if result and span.start < result[-1].end:
            last = result[-1]
            result[-1] = Span(last.start, max(last.end, span.end), last.name, min(last.begin, span.begin))
        else:
            result.append(span)
    return result


def masked(text: str, found: Sequence[Span]) -> str:
    """The text with `[name]` in place of each span."""
    pieces: list[str] = []
    place = 0
    for span in found:
        pieces += text[place : span.start], f"[{span.name}]"
        place = span.end
    pieces.append(text[place:])
    return "".join(pieces)
