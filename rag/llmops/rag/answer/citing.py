"""Citations: markers found in a stream of text, and spans proven to stand in the document they name.

Knows `[n]` markers and character offsets. Whether a span supports a sentence is judged by shared words first, and by
meaning only where words do not tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llmops.core.chain import Citation
from llmops.core.errors import NotFoundError
from llmops.core.identity import Principal
from llmops.rag.answer.sentences import sentences
from llmops.rag.lexical import analyze
from llmops.rag.retrieve import Found, QueryEmbedder, Retrieved

_MAYBE_MARKER = re.compile(r"[ \t]*\[[\d, ]{0,64}\Z|[ \t\n]+\Z|`+\Z")
_MARKS = re.compile(r"`+|\n[ \t]*\n|[ \t]*\[ ?\d{1,3}(?: ?, ?\d{1,3}){0,9} ?\]")
_SHARED = 0.25
"""Share of a sentence's terms that a span must hold to support it by words alone."""
_MEANS = 0.45
"""Cosine from which two sentences nearly say the same; unrelated ones stay below .3 (all-MiniLM-L6-v2)."""


@dataclass(frozen=True)
class Marker:
    """`[n]` or `[n, m]`, with the blanks that stood before it."""

    numbers: tuple[int, ...]
    blank: str


class MarkerParser:
    """Splits streamed text into plain text and markers, however the pieces were cut; code keeps its brackets."""

    def __init__(self) -> None:
        self._held = ""
        self._fence = ""

    def feed(self, piece: str) -> Iterator[str | Marker]:
        """What is certain after this piece; the beginning of a possible marker is held back."""
        text = self._held + piece
        maybe = _MAYBE_MARKER.search(text)
        cut = maybe.start() if maybe else len(text)
        self._held = text[cut:]
        yield from self._parse(text[:cut])

    def flush(self) -> Iterator[str | Marker]:
        """What was still held back."""
        text, self._held = self._held, ""
        yield from self._parse(text)

    def _parse(self, text: str) -> Iterator[str | Marker]:
        place = 0
        for match in _MARKS.finditer(text):
            if match[0][0] in "`\n":
                self._toggle(match[0])
                continue
            if self._fence:
                continue
            if place < match.start():
                yield text[place : match.start()]
            numbers = tuple(int(number) for number in re.findall(r"\d+", match[0]))
            yield Marker(numbers, match[0][: len(match[0]) - len(match[0].lstrip())])
            place = match.end()
        if place < len(text):
            yield text[place:]

    def _toggle(self, mark: str) -> None:
        """Code begins and ends with equal runs of backticks; code within a line also ends with its paragraph."""
        if mark == self._fence or (mark[0] == "\n" and len(self._fence) < 3):
            self._fence = ""
        elif not self._fence and mark[0] == "`":
            self._fence = mark


class CitationBook:
    """Numbers the citations of one answer, and gives out only spans that stand in their document word for word."""

    def __init__(self, found: Retrieved, principal: Principal, embedder: QueryEmbedder) -> None:
        self._found = found
        self._principal = principal
        self._embedder = embedder
        self._numbers: dict[tuple[str, int, int], int] = {}
        self._texts: dict[str, str | None] = {}

    @property
    def count(self) -> int:
        return len(self._numbers)

    def cite(self, passage: Found, start: int, end: int) -> tuple[int, Citation | None] | None:
        """The number of a span, given by offsets into its passage, and its citation where it is cited first.

        None where the document no longer holds these words there (or this principal may not read it): better no
        citation than a wrong one.
        """
        chunk = passage.chunk
        quoted = chunk.text[start:end]
        place = (chunk.uri, chunk.start + start, chunk.start + end)
        if place in self._numbers:
            return self._numbers[place], None
        text = self._text(chunk.uri)
        if text is None or not quoted.strip() or text[place[1] : place[2]] != quoted:
            return None
        number = self._numbers[place] = len(self._numbers) + 1
        return number, Citation(number, *place, quoted, page=chunk.page, title=chunk.title, index=passage.index)

    def support(self, claim: str, passage: Found) -> tuple[int, int] | None:
        """The sentence of the passage that best supports a claim, as offsets; None where none does."""
        wanted = frozenset(analyze(claim))
        said = [(span, passage.chunk.text[slice(*span)]) for span in sentences(passage.chunk.text)]
        said = [(span, text) for span, text in said if any(map(str.isalnum, text))]
        if not said:
            return None
        spans, texts = [span for span, _ in said], [text for _, text in said]
        if not wanted:
            return spans[0]
        shares = [len(wanted & frozenset(analyze(text))) / len(wanted) for text in texts]
        best = max(range(len(spans)), key=lambda place: (shares[place], -place))
        if shares[best] >= _SHARED:
            return spans[best]
        likeness = self._embedder.embed(texts) @ self._embedder.embed_query(claim)
        best = int(likeness.argmax())
        return spans[best] if float(likeness[best]) >= _MEANS else None

    def _text(self, uri: str) -> str | None:
        if uri not in self._texts:
            try:
                self._texts[uri] = self._found.index.document(uri, self._principal).text
            except NotFoundError:  # deleted, or closed to this principal, since it was found
                self._texts[uri] = None
        return self._texts[uri]
