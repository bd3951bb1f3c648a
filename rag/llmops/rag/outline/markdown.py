"""The structure of Markdown: headings with their paths, and blocks that should stay whole (code, tables).

Knows block structure as far as cutting needs it (CommonMark 0.31, sections 4.2 to 4.5, and GitHub's tables); it renders
nothing.
"""

from __future__ import annotations

import re

from llmops.rag.outline.structure import Heading, Outline

_MARK = (
    r"(?:[ \t>]*(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)"
    r"| {0,3}(?P<hashes>\#{1,6})(?P<words>[ \t][^\n]*)"
    r"| {0,3}(?P<underline>=+|-{3,})[ \t]*\r?(?=\n|\Z)"
    r"|(?P<table>[ \t]*\|[^\n]*(?:\n[ \t]*\|[^\n]*)+))"
)
_FIRST_MARK = re.compile(_MARK)
_NEXT_MARK = re.compile(r"\n" + _MARK)
"""Begins with a plain character, for which `re` skips ahead ten times faster than for `^`."""
_UNDERLINED = re.compile(r" {0,3}(?![-+*>|\#][ \t]|\d+[.)][ \t]|[-=*_]{3})(?P<title>[^\s|][^|]*)")
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?:[^\n]*\n)*?(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)")
_INLINE = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|[*`]+|(?<!\w)_+|_+(?!\w)|\{#[^}]*\}")
_AFTER = re.compile(r"\s*")
_MAX_TITLE_CHARS = 200


def markdown_outline(text: str) -> Outline:
    """Headings and whole blocks of Markdown; front matter is a block, and nothing in a block is a heading."""
    headings: list[Heading] = []
    blocks: list[tuple[int, int]] = []
    stack: list[tuple[int, str]] = []
    front = _FRONT_MATTER.match(text)
    position = front.end() if front is not None else 0
    if front is not None:
        blocks.append(front.span())
    mark = _FIRST_MARK.match(text, position)
    while mark is not None or (mark := _NEXT_MARK.search(text, max(position - 1, 0))) is not None:
        previous, position = position, mark.end()
        if mark["fence"]:
            position = _fence_end(text, mark)
            blocks.append((mark.start("fence"), position))
        elif mark["table"]:
            blocks.append(mark.span("table"))
        elif (heading := _read_heading(text, mark, previous)) is not None:
            level, start, title = heading
            while stack and stack[-1][0] >= level:
                stack.pop()
            if title:
                stack.append((level, title))
            below = _AFTER.match(text, position)
            headings.append(Heading(start, below.end() if below else position, tuple(name for _, name in stack)))
        mark = None
    return Outline(headings, blocks)


def strip_inline(markdown: str) -> str:
    """A heading's words without links, emphasis and code marks."""
    return _INLINE.sub(r"\1", markdown).strip()


def _read_heading(text: str, mark: re.Match[str], previous: int) -> tuple[int, int, str] | None:
    """Level, start and words of a heading; None for a line of dashes that is under no words.

    Args:
        previous: where the block before ended, before which an underlined line can't begin.
    """
    hashes: str | None = mark["hashes"]
    if hashes:
        words = mark["words"][:_MAX_TITLE_CHARS].strip()
        closed = words.rstrip("#")
        words = closed if closed != words and (not closed or closed[-1].isspace()) else words
        return len(hashes), mark.start("hashes"), " ".join(strip_inline(words).split())
    line_start = max(text.rfind("\n", previous, mark.start()) + 1, previous)
    line = _UNDERLINED.fullmatch(text, line_start, mark.start())
    if line is None:
        return None
    words = strip_inline(line["title"][:_MAX_TITLE_CHARS])
    return (1 if mark["underline"][0] == "=" else 2), line.start("title"), " ".join(words.split())


def _fence_end(text: str, opening: re.Match[str]) -> int:
    """Where fenced code ends: at a fence of the same character, as long or longer; an unclosed one runs to the end."""
    fence: str = opening["fence"]
    if fence[0] == "`" and "`" in opening["info"]:
        return opening.end()  # inline code, not a fence
    closing = re.compile(rf"^[ \t>]*{fence[0]}{{{len(fence)},}}[ \t]*\r?$", re.MULTILINE)
    closed = closing.search(text, opening.end())
    return closed.end() if closed is not None else len(text)
