"""Cuts a passage into sentences with their places, so that a citation can point at exactly the words that support it.

Knows punctuation, list items, table rows and headings as they stand in plain text and Markdown. It knows no meaning.
"""

from __future__ import annotations

import re

MAX_SENTENCE_CHARS = 600
"""A longer run without an end is cut at a space: it is a table, a list or code rather than a sentence."""

_ABBREVIATIONS = frozenset(
    [
        "al", "apr", "approx", "aug", "ave", "ca", "capt", "cf", "co", "col", "corp", "dec", "dept", "dr", "ed", "eds",
        "eg", "esp", "est", "etc", "feb", "fig", "figs", "gen", "gov", "hon", "ie", "inc", "jan", "jr", "jul", "jun",
        "lt", "ltd", "mar", "mr", "mrs", "ms", "mt", "no", "nos", "nov", "oct", "op", "pp", "prof", "rep", "rev", "sen",
        "sep", "sept", "sgt", "sr", "st", "vol", "vols", "vs",
    ]
)  # fmt: skip
_BLOCK = re.compile(
    r"(?:[ \t]*\r?\n){2,}"  # an empty line
    r"|\r?\n(?=[ \t]*(?:[-*+][ \t]|\d{1,3}[.)][ \t]|#{1,6}[ \t]|[|>]|`{3}|~{3}))"  # a line that opens a new block
    r"|(?<=\|)[ \t]*\r?\n"  # the end of a table row
)
_HEADING = re.compile(r"[ \t]*#{1,6}[ \t][^\n]*(?:\n|\Z)")
_END = re.compile(
    r"(?P<mark>[.!?]+)[\"'”’)\]*_]*(?=\s+[\"'“‘(\[*_`]*(?P<next>\S))"  # closed, and another sentence begins
    r"|[。！？]+[」』）]?"
)
_WORD_BEFORE = re.compile(r"\S+$")


def sentences(text: str) -> list[tuple[int, int]]:
    """The (start, end) of each sentence, in order, without the white space around it."""
    spans: list[tuple[int, int]] = []
    for block_start, block_end in _blocks(text):
        for start, end in _split(text, block_start, block_end):
            spans.extend(_short(text, start, end))
    return spans


def _blocks(text: str) -> list[tuple[int, int]]:
    """Paragraphs, list items, table rows; a heading is a block of its own."""
    spans = []
    edges = [0, *(edge for match in _BLOCK.finditer(text) for edge in match.span()), len(text)]
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        heading = _HEADING.match(text, start, end)
        cut = heading.end() if heading else start
        spans += [(start, cut), (cut, end)]
    return [span for span in spans if span[0] < span[1]]


def _split(text: str, start: int, end: int) -> list[tuple[int, int]]:
    spans = []
    begin = start
    for match in _END.finditer(text, start, end):
        if match["mark"] == "." and not _closes(text, begin, match.start(), match["next"]):
            continue
        spans.append((begin, match.end()))
        begin = match.end()
    spans.append((begin, end))
    return spans


def _closes(text: str, begin: int, dot: int, following: str) -> bool:
    """Whether the full stop at `dot` ends a sentence rather than an abbreviation, an initial or a list number."""
    if following.islower():
        return False
    before = _WORD_BEFORE.search(text, begin, dot)
    word = before[0].lstrip("\"'“‘([*_`") if before else ""
    single = len(word) == 1 and word.isalpha() and word.isupper()
    dotted = "." in word and all(len(part) <= 2 for part in word.split("."))  # U.S, e.g, a.m
    numbers_item = word.isdigit() and before is not None and before.start() == begin
    return not (single or dotted or numbers_item or word.lower() in _ABBREVIATIONS)


def _short(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The span without white space at its ends, cut at spaces where it is too long."""
    spans: list[tuple[int, int]] = []
    while True:
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if end - start <= MAX_SENTENCE_CHARS:
            return [*spans, (start, end)] if start < end else spans
        cut = max(text.rfind(space, start + 1, start + MAX_SENTENCE_CHARS) for space in " \n")
        cut = cut if cut > start else start + MAX_SENTENCE_CHARS
        spans.append((start, start + len(text[start:cut].rstrip())))
        start = cut
