"""Writes parsed structure as plain Markdown, so that one chunker reads every marked-up document.

Knows the few marks the outline looks for (`#`, `-`, `|`, fences). Words are written as they stand, not escaped: the
text is searched and quoted, not rendered. Only a line that would pass for a heading or a fence gets a backslash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from llmops.rag.document import RefusedDocumentError
from llmops.rag.outline.markdown import markdown_outline
from llmops.rag.parse.extracted import printable

_MISLEADING = re.compile(r"^([ \t]*)(?=#{1,6}[ \t]|`{3}|~{3}|={3,}[ \t]*$|-{3,}[ \t]*$)", re.MULTILINE)
_RECORD_LINE_CHARS = 400
"""A record up to here is one line, which is found and quoted whole; a longer one has a line for each of its fields."""


class Markup:
    """Collects blocks in reading order; `text` joins them.

    Args:
        max_chars: more text than this is refused while it is written, before memory holds it.
    """

    def __init__(self, max_chars: int | None = None) -> None:
        self._blocks: list[str] = []
        self._in_list = False
        self._max_chars = max_chars
        self._chars = 0
        self.first_heading: str | None = None

    def heading(self, level: int, words: str) -> None:
        words = " ".join(words.split())
        if words:
            self.first_heading = self.first_heading or words
            self._add(f"{'#' * min(max(level, 1), 6)} {words}")

    def paragraph(self, words: str) -> None:
        self._add(_guard(words.strip()))

    def item(self, words: str, depth: int = 0) -> None:
        """One entry of a list; entries that follow each other stand on lines of one block."""
        words = " ".join(words.split())
        if not words:
            return
        line = f"{'  ' * min(depth, 8)}- {words}"
        if self._in_list:
            self._count(line)
            self._blocks[-1] += f"\n{line}"
        else:
            self._add(line)
            self._in_list = True

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        lines: list[str] = []
        for row in rows:
            cells = [" ".join(cell.split()) for cell in row]
            if any(cells):
                lines.append(f"| {' | '.join(cells)} |")
                self._count(lines[-1])
                if len(lines) == 1:
                    lines.append(f"|{' --- |' * len(cells)}")
        self._keep("\n".join(lines))

    def record(self, fields: Iterable[tuple[str, str]]) -> None:
        """A row with its headers, so that it can be understood alone: `Name: Ann; Days: 28`."""
        named = [(" ".join(name.split()), value.strip()) for name, value in fields]
        parts = [f"{name}: {value}" if name else value for name, value in named if value]
        line = "; ".join(parts)
        self._add(_guard(line if len(line) <= _RECORD_LINE_CHARS and "\n" not in line else "\n".join(parts)))

    def code(self, words: str, language: str = "") -> None:
        words = words.strip("\n")
        if words.strip():
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", words)), default=0))
            self._add(f"{fence}{language}\n{words}\n{fence}")

    def markdown(self, text: str, below: int = 0) -> None:
        """Text that is Markdown already, its headings `below` levels deeper."""
        text = text.strip()
        parts = []
        position = 0
        for heading in markdown_outline(text).headings:
            self.first_heading = self.first_heading or (heading.path[-1] if heading.path else None)
            if below and text[heading.start] == "#":
                marks = text[heading.start : heading.start + 6].split()[0].count("#")
                parts += [text[position : heading.start], "#" * min(below, 6 - marks)]
                position = heading.start
        self._add("".join([*parts, text[position:]]))

    def size(self) -> int:
        """Characters written so far, blanks aside."""
        return sum(len("".join(block.split())) for block in self._blocks)

    def text(self) -> str:
        return printable("\n\n".join(self._blocks))

    def _add(self, block: str) -> None:
        self._count(block)
        self._keep(block)

    def _keep(self, block: str) -> None:
        if block:
            self._blocks.append(block)
            self._in_list = False

    def _count(self, words: str) -> None:
        self._chars += len(words)
        if self._max_chars is not None and self._chars > self._max_chars:
            raise RefusedDocumentError("too_much_text", f"more than {self._max_chars:,} characters")


def _guard(words: str) -> str:
    return _MISLEADING.sub(r"\1\\", words)
