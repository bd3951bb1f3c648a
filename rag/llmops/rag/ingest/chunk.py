"""Cuts a document's text into passages small enough to embed and cite, along the structure it has.

Every passage is a span of the text, word for word; together they cover everything that is not blank; none crosses a
page. One window at a time: look at most `size_chars` ahead and cut at the best place there, so that cost grows with the
text, and cuts soon fall into step again behind an edit. Knows text and outline; knows no file, no model and no index.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from unicodedata import combining

from llmops.rag.config import ChunkingConfig
from llmops.rag.document import PageSpan, Parsed
from llmops.rag.outline import Outline, outline

CHUNKER_VERSION = 1
"""Rises whenever the same text and settings would be cut differently: it is part of an index's fingerprint."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A span of a document that is embedded, found and cited.

    Attributes:
        start, end: `text == parsed.text[start:end]`; no blank at either end.
        page: number of the page it stands on, or None for media without pages.
        context: the document's title and the headings above, outermost first, as `Title > Heading > Sub-heading`.
        ordinal: its place among the document's passages, from 0.
    """

    start: int
    end: int
    page: int | None
    text: str
    context: str
    ordinal: int

    @property
    def indexed_text(self) -> str:
        """What both searches see: a passage says little without what stands above it."""
        return f"{self.context}\n{self.text}" if self.context else self.text


def fingerprint(config: ChunkingConfig) -> dict[str, int]:
    """Everything that decides where a text is cut, for an index's fingerprint."""
    return {"chunker": CHUNKER_VERSION, "size_chars": config.size_chars, "overlap_chars": config.overlap_chars}


def chunk(parsed: Parsed, config: ChunkingConfig) -> list[Passage]:
    """Cut a document into passages of at most `size_chars` characters, in the order of the text."""
    structure = outline(parsed)
    pages = parsed.pages or (PageSpan(0, 0, len(parsed.text)),)
    passages: list[Passage] = []
    path: tuple[str, ...] = ()
    context = _context(parsed.title, path)
    for page in pages:
        for start, end in _cut_page(parsed.text, page, structure, config):
            here = structure.path_at(start)
            if here != path:
                path, context = here, _context(parsed.title, here)
            passages.append(Passage(start, end, page.number or None, parsed.text[start:end], context, len(passages)))
    return passages


def _context(title: str | None, path: tuple[str, ...]) -> str:
    """Title and headings as one line; the title is not repeated where the first heading says the same."""
    names = path if not title or (path and path[0].casefold() == title.casefold()) else (title, *path)
    return " > ".join(names)


# What a cut costs, in window lengths that one would give up for a better place. Chosen on the chunk_eval set.
_HEADING = -0.5
_PARAGRAPH = 0.0
_ITEM = 0.10
_LINE = 0.10
_SENTENCE = 0.20
_WRAP = 0.40
_WORD = 0.60
_GIANT = 1.20
_SPLITS_BLOCK = 0.40
_ORPHANS_HEADING = 1.00
_AFTER_COLON = 0.15

_PLACES = re.compile(r"[.!?…][\"'”’»)\]*_`]{0,4}\s+|\n\s*|[。！？][」』”’）]{0,2}\s*")
_MARKER = re.compile(r"[-*+•|>][ \t|]|\d{1,3}[.)][ \t]")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|Dr|Mr|Mrs|Ms|Prof|St|Jr|Sr|No|Fig|Figs|Eq|Sec|vs|cf|al|e\.g|i\.e|approx|Inc|Ltd|Co|z\.B|bzw|ca))\.$"
)
_LINE_ENDS = '.!?…:;。！？"”’)|'
_JOINERS = "\u200d\ufe0e\ufe0f"
_LAST_GAP = re.compile(r".*\s", re.DOTALL)
_GAP = re.compile(r"\s")
_TEXT = re.compile(r"\S")


def _cut_page(text: str, page: PageSpan, structure: Outline, config: ChunkingConfig) -> Iterator[tuple[int, int]]:
    """The passages of one page as (start, end), in order."""
    body = config.size_chars - config.overlap_chars
    cutter = _Cutter(text, page.end, structure, body)
    previous = page.start
    first = _TEXT.search(text, page.start, page.end)
    while first is not None:
        start = first.start()
        cut = cutter.next_cut(start)
        end = _content_end(text, start, cut)
        yield _step_back(text, previous, start, config.overlap_chars), end
        previous = start
        first = _TEXT.search(text, cut, page.end)


@dataclass(frozen=True, slots=True)
class _Cutter:
    """Finds the best place to end a passage that starts at a given character of a page."""

    text: str
    page_end: int
    structure: Outline
    size: int

    def next_cut(self, start: int) -> int:
        """The cheapest cut within reach: what kind of place it is, plus how far it is from the ideal length."""
        limit = start + self.size
        if limit >= self.page_end or _TEXT.search(self.text, limit, self.page_end) is None:
            return self.page_end
        ideal = self._ideal(start)
        best, best_cost = limit, _GIANT
        for place in _PLACES.finditer(self.text, start, limit + 1):
            cut, gap = place.end(), place.group()
            if place.start() + len(gap.rstrip()) > limit:
                continue
            cost = self._kind(place.start(), gap, cut) + abs(ideal - (cut - start)) / self.size
            if cost <= best_cost:
                best, best_cost = cut, cost
        return best if best_cost < _GIANT else self._cut_words(start, limit)

    def _ideal(self, start: int) -> int:
        """The length to aim at: full, or half of what is left before the next heading if that is under two passages."""
        edge = self.structure.next_heading(start)
        rest = min(edge if edge is not None else self.page_end, self.page_end) - start
        return rest // 2 if self.size < rest < 2 * self.size else self.size

    def _kind(self, position: int, gap: str, cut: int) -> float:
        """What it costs to cut at a gap, by what stands on its two sides."""
        if cut in self.structure.starts:
            return _HEADING + (_ORPHANS_HEADING if cut in self.structure.belows else 0)
        lines = gap.count("\n")
        mark = gap[0]
        if lines > 1:
            cost = _PARAGRAPH
        elif lines == 1:
            ends = mark != "\n" or self.text[position - 1] in _LINE_ENDS
            cost = _ITEM if _MARKER.match(self.text, cut) else _LINE if ends else _WRAP
        else:
            cost = _SENTENCE if self._ends_sentence(position, mark, cut) else _WORD
        if cut in self.structure.belows:
            cost += _ORPHANS_HEADING
        if lines and self.text[position + len(gap.rstrip()) - 1] == ":":
            cost += _AFTER_COLON
        block = self.structure.block_at(cut)
        if block is not None:
            fits = block[1] - block[0] <= self.size
            cost = (_ITEM if lines else _WORD) + (_SPLITS_BLOCK if fits else 0)
        return cost

    def _ends_sentence(self, position: int, mark: str, cut: int) -> bool:
        if mark == "." and _ABBREVIATION.search(self.text, max(0, position - 8), position + 1):
            return False
        return not self.text[cut : cut + 1].islower()

    def _cut_words(self, start: int, limit: int) -> int:
        """Between two words; within one only where that one alone is longer than a passage."""
        gap = _LAST_GAP.match(self.text, start, limit + 1)
        if gap is None:
            return _between_characters(self.text, start, limit)
        word = gap.end()
        furthest = min(word + self.size + 1, self.page_end)
        behind = _GAP.search(self.text, word, furthest)
        giant = (behind.start() if behind is not None else furthest) - word > self.size
        return _between_characters(self.text, start, limit) if giant else word


def _between_characters(text: str, start: int, limit: int) -> int:
    """A cut within a word that leaves accents and joined signs with their base character."""
    for cut in range(limit, max(start, limit - 16), -1):
        if not (combining(text[cut]) or text[cut] in _JOINERS or text[cut - 1] == "\u200d"):
            return cut
    return limit


def _content_end(text: str, start: int, cut: int) -> int:
    return start + len(text[start:cut].rstrip())


def _step_back(text: str, floor: int, start: int, overlap: int) -> int:
    """Where a passage begins that repeats up to `overlap` characters of the one before, in whole words."""
    if overlap == 0 or start <= floor:
        return start
    gap = _GAP.search(text, max(floor, start - overlap - 1), start)
    begin = _TEXT.search(text, gap.end(), start + 1) if gap is not None else None
    return begin.start() if begin is not None else start
