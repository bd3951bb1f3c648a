"""What every outline gives: headings with their paths, and blocks that should stay whole.

Knows positions in a text; no markup, no programming language.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Heading:
    """One heading line, with the titles of the headings it stands under, itself included.

    Attributes:
        start: of its marks or words.
        below: of whatever follows it.
    """

    start: int
    below: int
    path: tuple[str, ...]


@dataclass
class Outline:
    """Headings and whole blocks of a text, each in order."""

    headings: list[Heading] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._heading_starts = [heading.start for heading in self.headings]
        self._block_starts = [start for start, _ in self.blocks]
        self.starts = frozenset(self._heading_starts)
        self.belows = frozenset(heading.below for heading in self.headings)

    def path_at(self, position: int) -> tuple[str, ...]:
        """The headings that the text at `position` stands under, outermost first."""
        index = bisect_right(self._heading_starts, position) - 1
        return self.headings[index].path if index >= 0 else ()

    def next_heading(self, position: int) -> int | None:
        """Where the first heading after `position` starts."""
        index = bisect_right(self._heading_starts, position)
        return self._heading_starts[index] if index < len(self.headings) else None

    def block_at(self, position: int) -> tuple[int, int] | None:
        """The whole block that a cut at `position` would split."""
        index = bisect_right(self._block_starts, position) - 1
        if index < 0:
            return None
        start, end = self.blocks[index]
        return (start, end) if start < position < end else None
