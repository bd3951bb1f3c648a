"""The structure of reStructuredText: section titles, and blocks (literal text, tables, directives) to keep whole.

Knows the markup as far as cutting needs it (docutils' specification, "Sections", "Literal Blocks", "Tables"). It
executes no directive, so nothing is included, fetched or run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from llmops.rag.outline.structure import Heading, Outline

_LINE = re.compile(r"[^\n]*\n|[^\n]+\Z")
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*\Z")
_BORDER = re.compile(r"=+(?: +=+)+\s*\Z")
_GRID = re.compile(r"\+[-=]{2,}[-=+]*\+\s*\Z")
_DIRECTIVE = re.compile(r"\.\. [\w:.+-]+::")
_ROLE = re.compile(r"(?::[\w:.+-]+:)?`{1,2}([^`<]*?)\s*(?:<[^`>]*>)?`{1,2}_{0,2}|[*|]+")
_AFTER = re.compile(r"\s*")
_MAX_TITLE_CHARS = 200


def rst_outline(text: str) -> Outline:
    """Sections by their underlines, whose order of appearance ranks them; whole blocks."""
    reader = _Reader(text)
    reader.read()
    return Outline(reader.headings, reader.blocks)


@dataclass
class _Reader:
    text: str
    headings: list[Heading] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)
    stack: list[tuple[int, str]] = field(default_factory=list)
    ranks: list[tuple[str, bool]] = field(default_factory=list)

    def read(self) -> None:
        self.lines = _LINE.findall(self.text)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        here = 0
        while here < len(self.lines):
            here = self._section(here) or self._block(here) or here + 1

    def _section(self, here: int) -> int | None:
        """The line behind a section title, None where there is none."""
        if here and self.lines[here - 1].strip():
            return None
        line = self.lines[here]
        over = _ADORNMENT.match(line) is not None
        title, under = (here + 1, here + 2) if over else (here, here + 1)
        if under >= len(self.lines) or not self.lines[title].strip():
            return None
        drawn = self.lines[under].rstrip()
        if not _ADORNMENT.match(drawn) or (over and drawn != line.rstrip()) or (not over and line[0].isspace()):
            return None
        words = self.lines[title].strip()
        if len(drawn) < min(len(words), 4):
            return None
        self._add(here, under, words[:_MAX_TITLE_CHARS], (drawn[0], over))
        return under + 1

    def _add(self, first: int, last: int, words: str, style: tuple[str, bool]) -> None:
        if style not in self.ranks:
            self.ranks.append(style)
        rank = self.ranks.index(style)
        while self.stack and self.stack[-1][0] >= rank:
            self.stack.pop()
        self.stack.append((rank, " ".join(_ROLE.sub(r"\1", words).split()) or words))
        below = _AFTER.match(self.text, self.starts[last + 1])
        start = self.starts[first] + len(self.lines[first]) - len(self.lines[first].lstrip())
        path = tuple(name for _, name in self.stack)
        self.headings.append(Heading(start, below.end() if below else len(self.text), path))

    def _block(self, here: int) -> int | None:
        """The line behind a table, a literal block or a directive with its content, None where there is none."""
        line = self.lines[here]
        bare = line.strip()
        if _GRID.match(bare):
            behind = self._while(here, lambda at: self.lines[at].lstrip().startswith(("+", "|")))
        elif _BORDER.match(bare):
            behind = self._while(here, lambda at: bool(self.lines[at].strip()))
        elif bare.endswith("::") or _DIRECTIVE.match(bare):
            margin = len(line) - len(line.lstrip())
            behind = self._while(
                here + 1, lambda at: not self.lines[at].strip() or self.lines[at][: margin + 1].isspace()
            )
            while behind > here + 1 and not self.lines[behind - 1].strip():
                behind -= 1
        else:
            return None
        if behind > here + 1:
            start = self.starts[here] + len(line) - len(line.lstrip())
            self.blocks.append((start, self.starts[behind - 1] + len(self.lines[behind - 1].rstrip())))
        return behind

    def _while(self, here: int, holds: Callable[[int], bool]) -> int:
        while here < len(self.lines) and holds(here):
            here += 1
        return here
