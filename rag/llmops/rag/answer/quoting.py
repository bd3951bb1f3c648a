"""The built-in answerer: picks the sentences of the passages that answer, and says that it is quoting.

Needs no language model. It never words anything of its own beyond one line of introduction, and says that it does not
know where no sentence reaches the level that answering sentences reach.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmops.core.chain import Citation, Delta, Usage
from llmops.rag.answer.asked import Answered, Asked, Piece, refusal
from llmops.rag.answer.citing import CitationBook
from llmops.rag.answer.cues import ASKING, answers_kind, asked_kinds
from llmops.rag.answer.markdown import block_quote
from llmops.rag.answer.sentences import sentences
from llmops.rag.answer.tokens import estimate_tokens
from llmops.rag.lexical import analyze, vocabulary
from llmops.rag.outline import markdown_outline
from llmops.rag.retrieve import Found, QueryEmbedder

INTRODUCTION = "Quoted from the documents:"

# Logistic regression for "this sentence holds the answer", fitted on every second question of XQuAD (English) over the
# sentences of its eight retrieved passages; on the other half the first sentence is right in 83%, one of two in 92%.
_COVERAGE, _PASSAGE, _COSINE, _CUE, _OFFSET = 5.38, 0.43, 4.37, 0.57, -8.2
# At this level the other half has 2.5% of its questions refused; of those whose article was taken out, 93%; of those
# asked of other corpora, 97%.
_ANSWERS = -3.0
_CLOSE = 1.2
_EMBEDDED = 8
_AT_ONCE = 2
"""Sentences embedded first: they mostly decide. What could not be quoted beside them at a cosine of 1 never is."""
_MOST_COSINE = 1.001
_MOST_QUOTES = 3
_MOST_CHARS = 900
_TAKEN_OVER = 0.3
_CACHED_SENTENCES = 20_000
_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])\s")
_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})", re.MULTILINE)


@dataclass(frozen=True)
class Sentence:
    """A candidate: offsets into its passage's text, its terms, and how well it may answer.

    `heading` is what it stands under: it says what the sentence is about, where the sentence itself does not.
    """

    passage: Found
    start: int
    end: int
    terms: frozenset[str]
    heading: str = ""
    score: float = 0.0

    @property
    def text(self) -> str:
        return self.passage.chunk.text[self.start : self.end]


class QuotingAnswerer:
    """Answers in the documents' own words. Safe to share between threads."""

    def __init__(self, embedder: QueryEmbedder) -> None:
        self._vectors = _SentenceVectors(embedder)
        self._embedder = embedder

    def answer(self, asked: Asked) -> Iterator[Piece]:
        quotes = self.pick(asked)
        asked.context.cancel.check()
        read = Usage(sum(estimate_tokens(found.chunk.text) for found in asked.found.passages), 0, True)
        book = CitationBook(asked.found, asked.context.principal, self._embedder)
        pieces = list(_quoted(quotes, book))
        if not pieces:
            yield from refusal(read)
            return
        yield from pieces
        written = sum(estimate_tokens(piece.text) for piece in pieces if isinstance(piece, Delta))
        yield Answered(Usage(read.input_tokens, written, True), refused=False, quoted=True)

    def pick(self, asked: Asked) -> list[Sentence]:
        """The sentences that answer, best first; none where the passages do not answer.

        All are scored by words, the best of them by meaning too, since each embedding costs milliseconds: a few first,
        then those that could still be quoted beside them. So the quotes are those of embedding all.
        """
        waiting, judged, count = _by_words(asked), list[Sentence](), _AT_ONCE
        while waiting:
            floor = _floor(judged)
            waiting = [sentence for sentence in waiting if sentence.score + _COSINE * _MOST_COSINE >= floor]
            now, waiting, count = waiting[:count], waiting[count:], _EMBEDDED
            judged += self._by_meaning(now, asked) if now else []
        return _quotes(judged)

    def _by_meaning(self, candidates: Sequence[Sentence], asked: Asked) -> list[Sentence]:
        return [
            replace(sentence, score=sentence.score + _COSINE * float(cosine))
            for sentence, cosine in zip(candidates, self._likeness(candidates, asked), strict=True)
        ]

    def _likeness(self, candidates: Sequence[Sentence], asked: Asked) -> NDArray[np.float32]:
        """How close each is in meaning, by itself or read under its heading."""
        direction = self._direction(asked)
        alone = [sentence.text for sentence in candidates]
        under = [f"{sentence.heading}\n{sentence.text}".lstrip() for sentence in candidates]
        likeness = self._vectors.of([*alone, *under]) @ direction
        closest: NDArray[np.float32] = np.maximum(likeness[: len(alone)], likeness[len(alone) :])
        return closest

    def _direction(self, asked: Asked) -> NDArray[np.float32]:
        """The unit vector to compare with: of a follow-up its own words as much as what it was understood as."""
        if asked.question == asked.found.question:
            return asked.found.vector
        both = self._embedder.embed_query(asked.question) + asked.found.vector
        unit: NDArray[np.float32] = both / max(float(np.linalg.norm(both)), 1e-9)
        return unit


def _by_words(asked: Asked) -> list[Sentence]:
    """The candidates that are scored by meaning too, with the rest of their scores, best first."""
    question = asked.question
    kinds = asked_kinds(question)
    wanted = _wanted(question, asked.found.question)
    candidates = _candidates(asked.found.passages)
    scored = [
        (_cheap(sentence, coverage, question, kinds), sentence)
        for sentence, coverage in zip(candidates, _coverages(wanted, candidates), strict=True)
        if sentence.terms - wanted.keys() or sentence.text.endswith(":")  # a mere echo says nothing new
    ]
    best = sorted(scored, key=lambda pair: -pair[0])[:_EMBEDDED]
    return [replace(sentence, score=score) for score, sentence in best]


def _quotes(judged: Sequence[Sentence]) -> list[Sentence]:
    """Those that answer, best first, as many as an answer quotes; of equal ones the first named."""
    quotes: list[Sentence] = []
    chars = 0
    for sentence in sorted(judged, key=lambda sentence: -sentence.score):
        chars += sentence.end - sentence.start
        full = len(quotes) == _MOST_QUOTES or chars > _MOST_CHARS
        if (quotes and full) or sentence.score < (max(_ANSWERS, quotes[0].score - _CLOSE) if quotes else _ANSWERS):
            break
        if not any(sentence.text == quote.text for quote in quotes):
            quotes.append(_with_what_it_announces(sentence))
    return quotes


def _floor(judged: Sequence[Sentence]) -> float:
    """The score below which a further sentence would not be quoted beside these."""
    quotes = _quotes(judged)
    if len(quotes) == _MOST_QUOTES:
        return quotes[-1].score
    return max(_ANSWERS, quotes[0].score - _CLOSE) if quotes else _ANSWERS


def _candidates(passages: Sequence[Found]) -> list[Sentence]:
    """Every sentence that says something; a heading or code says nothing by itself."""
    found = []
    for passage in passages:
        text, code = passage.chunk.text, False
        structure, above = markdown_outline(text), passage.chunk.context.split(" > ")[1:]
        for start, end in sentences(text):
            said = text[start:end]
            fences = len(_FENCE.findall(said))
            code_here = code or fences or _is_indented_code(text, start, said)
            if not (code_here or said.startswith("#")) and any(map(str.isalnum, said)):
                heading = ([*above, *structure.path_at(start)] or [""])[-1]
                found.append(Sentence(passage, start, end, vocabulary(said), heading))
            code ^= fences % 2 == 1
    return found


def _is_indented_code(text: str, start: int, said: str) -> bool:
    """Whether a sentence is in a code block by its indentation of four (CommonMark 0.31, section 4.4).

    Such a block stands apart from what is above it; below the item of a list the same indentation is the item's.
    """
    *above, before = text[:start].split("\n")
    if not before.isspace() or _indentation(before) < 4:
        return False
    apart = False
    for line in reversed(above):
        if not line.strip():
            apart = True
        elif _indentation(line) < 4:
            return apart and not _ITEM.match(line)
        else:
            apart = False
    return not _ITEM.match(said)  # what it stands below is in another passage


def _indentation(line: str) -> int:
    spread = line.expandtabs(4)
    return len(spread) - len(spread.lstrip(" "))


def _wanted(question: str, standalone: str) -> dict[str, float]:
    """The terms to look for; those that a follow-up takes over from before count less than its own."""
    own = vocabulary(question)
    terms = [term for term in analyze(standalone) if term not in ASKING] or analyze(standalone)
    return {term: 1.0 if term in own else _TAKEN_OVER for term in terms}


def _coverages(wanted: Mapping[str, float], candidates: list[Sentence]) -> list[float]:
    """Each candidate's share of the question's terms, rare ones among the candidates weighing more."""
    headings = {heading: vocabulary(heading) for heading in {c.heading for c in candidates}}
    held = [(wanted.keys() & c.terms) | (wanted.keys() & headings[c.heading]) for c in candidates]
    counts = Counter(term for terms in held for term in terms)
    weights = {
        term: worth * math.log(1.0 + (len(candidates) - counts[term] + 0.5) / (counts[term] + 0.5))
        for term, worth in wanted.items()
    }
    total = sum(weights.values()) or 1.0
    return [sum(weights[term] for term in sorted(terms)) / total for terms in held]


def _cheap(sentence: Sentence, coverage: float, question: str, kinds: frozenset[str]) -> float:
    cue = answers_kind(kinds, question, sentence.text)
    return _OFFSET + _COVERAGE * coverage + _PASSAGE * sentence.passage.score + _CUE * cue


def _with_what_it_announces(sentence: Sentence) -> Sentence:
    """A sentence that ends in a colon, with the list, code or sentence that it announces."""
    if not sentence.text.endswith(":"):
        return sentence
    text = sentence.passage.chunk.text
    end = sentence.end
    for start, following in (span for span in sentences(text) if span[0] >= sentence.end):
        too_far = following - sentence.start > _MOST_CHARS // 2
        if too_far or (end > sentence.end and _begins_anew(text, sentence.end, end, start)):
            break
        end = following
    return replace(sentence, end=end)


def _begins_anew(text: str, announced: int, end: int, start: int) -> bool:
    """Whether what starts here, after `end`, is no more of the list or code that began at `announced`."""
    if len(_FENCE.findall(text[announced:end])) % 2:
        return False
    line = text[text.rfind("\n", 0, start) + 1 :]
    apart = not all(part.strip() for part in text[end:start].split("\n")[1:-1])
    return line.startswith("#") or (apart and not _ITEM.match(line) and _indentation(line) < 4)


def _quoted(quotes: Sequence[Sentence], book: CitationBook) -> Iterator[Delta | Citation]:
    """Each quote as a paragraph with its marker, then its citation; one no longer in its document is left out."""
    opening = INTRODUCTION
    for quote in quotes:
        cited = book.cite(quote.passage, quote.start, quote.end)
        if cited is None or cited[1] is None:
            continue
        yield Delta(f"{opening}\n\n{block_quote(quote.text, f'[{cited[0]}]')}")
        yield cited[1]
        opening = ""


class _SentenceVectors:
    """Vectors of sentences already met; the same passages come up again and again."""

    def __init__(self, embedder: QueryEmbedder) -> None:
        self._embedder = embedder
        self._lock = threading.Lock()
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with self._lock:
            missing = [text for text in dict.fromkeys(texts) if text not in self._known]
            known = {text: self._known[text] for text in texts if text in self._known}
        if missing:
            known.update(zip(missing, self._embedder.embed(missing), strict=True))
            with self._lock:
                self._known.update((text, known[text]) for text in missing)
                while len(self._known) > _CACHED_SENTENCES:
                    self._known.popitem(last=False)
        return np.stack([known[text] for text in texts])
