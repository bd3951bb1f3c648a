"""A document's words as Markdown that shows just them: none becomes a link, an image, HTML, a heading or a marker.

Knows the marks of plain Markdown (CommonMark 0.31, section 2.4: ASCII punctuation may be escaped). It renders nothing.
"""

from __future__ import annotations

import re
from typing import Literal

_LEADING = re.compile(r"^\s*(?:>+|#{1,6})\s+")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s+")
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
_INDENTED = re.compile(r" {4,}\S")
_CODE = "```"
_LINK = re.compile(r"`[^`]*`|(?<!!)\[([^\[\]]+)\]\([^()\s]*\)")
_SPECIAL = re.compile(r"[\\*_\[\]<>|~#&!]|`")


def inline(text: str) -> str:
    """One line of plain words; balanced `code` stays code, a link becomes its words, a table row its cells."""
    line = " ".join(_ITEM.sub("", _LEADING.sub("", text)).split())
    line = _LINK.sub(lambda found: found[1] or found[0], line)
    if line.startswith("|") or line.endswith("|"):
        line = " — ".join(cell.strip() for cell in line.strip("|").split("|") if cell.strip())
    parts = line.split("`")
    if len(parts) % 2 == 0 or "``" in line:
        return _SPECIAL.sub(r"\\\g<0>", line)
    return "`".join(part if place % 2 else _SPECIAL.sub(r"\\\g<0>", part) for place, part in enumerate(parts))


def block_quote(text: str, marker: str) -> str:
    """A block quote with `marker` at its end; list items keep their lines, code stays code."""
    quote = _Quote()
    for line in text.expandtabs(4).splitlines():
        quote.add(line)
    lines = quote.finished()
    if lines and lines[-1] != _CODE:
        lines[-1] += f" {marker}"
    else:
        lines.append(marker)
    return "\n".join(f"> {line}".rstrip() for line in lines)


class _Quote:
    """The lines of a quote in the making: the paragraph still open, and the kind of block that the last line was in."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._paragraph: list[str] = []
        self._fence = ""
        self._block: Literal["text", "item", "indented"] = "text"

    def add(self, line: str) -> None:
        mark = _FENCE.match(line)
        if self._fence:
            self._in_fence(line, mark)
        elif mark is not None:
            self._begin("text")
            self._close_paragraph()
            self._fence = mark[1]
            self._out.append(_CODE)
        elif self._block == "indented" and _INDENTED.match(line):
            self._out.append(_harmless(line[4:].rstrip()))
        elif _ITEM.match(line):
            self._begin("item")
            self._out.append(f"- {inline(line)}")
        elif not line.strip():
            self._close_paragraph()
            self._block = "text" if self._block == "item" else self._block
        elif self._block == "item":
            self._out[-1] += f" {inline(line)}"  # the second line of a list item
        elif _INDENTED.match(line) and not self._paragraph:
            self._begin("indented")
            self._out.append(_CODE)
            self._out.append(_harmless(line[4:].rstrip()))
        else:
            self._begin("text")
            self._paragraph.append(line)

    def finished(self) -> list[str]:
        self._begin("text")
        self._close_paragraph()
        return [*self._out, _CODE] if self._fence else self._out

    def _begin(self, block: Literal["text", "item", "indented"]) -> None:
        """End the block before, where it is another."""
        if self._block == "indented" and block != "indented":
            self._out.append(_CODE)
        if block != "text" or self._block != "text":
            self._close_paragraph()
        self._block = block

    def _in_fence(self, line: str, mark: re.Match[str] | None) -> None:
        if mark is not None and mark[1].startswith(self._fence):
            self._out.append(_CODE)
            self._fence = ""
        else:
            self._out.append(_harmless(line))

    def _close_paragraph(self) -> None:
        if self._paragraph:
            if self._out and self._out[-1].startswith("- "):
                self._out.append("")  # without it the paragraph would go on with the last item
            self._out.append(inline(" ".join(self._paragraph)))
            self._paragraph = []


def _harmless(code: str) -> str:
    """A line of code that cannot end its block."""
    return code.replace("`" * 3, "'''")
