"""Writes parsed structure as plain Markdown, so that one chunker reads every marked-up document.

Knows the few marks the outline looks for (`#`, `-`, `|`, fences). Words are written as they stand, not escaped: the
text is searched and quoted, not rendered. Only a line that would pass for a heading or a fence gets a backslash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from llmops.rag.parse.extracted import printable

_MISLEADING = re.compile(r"^([ \t]*)(?=#{1,6}[ \t]|`{3}|~{3}|={3,}[ \t]*$|-{3,}[ \t]*$)", re.MULTILINE)


class Markup:
    """Collects blocks in reading order; `text` joins them."""

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._in_list = False
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
            self._blocks[-1] += f"\n{line}"
        else:
            self._add(line)
            self._in_list = True

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        lines = []
        for row in rows:
            cells = [" ".join(cell.split()) for cell in row]
            if any(cells):
                lines.append(f"| {' | '.join(cells)} |")
                if len(lines) == 1:
                    lines.append(f"|{' --- |' * len(cells)}")
        self._add("\n".join(lines))

    def code(self, words: str) -> None:
        words = words.strip("\n")
        if words.strip():
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", words)), default=0))
            self._add(f"{fence}\n{words}\n{fence}")

    def size(self) -> int:
        """Characters written so far, blanks aside."""
        return sum(len("".join(block.split())) for block in self._blocks)

    def text(self) -> str:
        return printable("\n\n".join(self._blocks))

    def _add(self, block: str) -> None:
        if block:
            self._blocks.append(block)
            self._in_list = False


def _guard(words: str) -> str:
    return _MISLEADING.sub(r"\1\\", words)
