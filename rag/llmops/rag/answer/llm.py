"""The LLM answerer: one prompt, one streamed reply, every marker in it checked before it passes.

Knows prompts, markers and the client. Retrieval, history and refusing without passages happen before it is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmops.core.chain import Citation, Delta, Usage
from llmops.core.llm import LlmClient, LlmEnd
from llmops.core.tracing import span
from llmops.rag.answer.asked import Answered, Asked, Piece, refusal
from llmops.rag.answer.citing import CitationBook, Marker, MarkerParser
from llmops.rag.answer.prompt import PromptTemplate, within_budget
from llmops.rag.answer.tokens import estimate_tokens
from llmops.rag.retrieve import Found, QueryEmbedder

_REFUSALS = re.compile(
    r"\W*(?:i|we) (?:do not|don[’']t|cannot|can[’']t|am unable to|could not|couldn[’']t)"
    r" (?:know|find|answer|determine)\b"
    r"|\W*(?:sorry|unfortunately)\b.{0,80}\b(?:passages|documents|context)\b.{0,60}\b(?:not|n[’']t|no)\b",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE_END = re.compile(r"[.!?。！？]\s+|\n")
_CLAIM_CHARS = 600


class LlmAnswerer:
    """Answers through an OpenAI-format server. Safe to share between threads."""

    def __init__(self, client: LlmClient, prompt: PromptTemplate, embedder: QueryEmbedder, context_tokens: int) -> None:
        self._client = client
        self._prompt = prompt
        self._embedder = embedder
        self._context_tokens = context_tokens

    def answer(self, asked: Asked) -> Iterator[Piece]:
        """Stream the model's answer with checked citations.

        Raises:
            UpstreamError, RateLimitedError, Cancelled: see `LlmClient.stream`; pieces given before stay valid.
        """
        with span("prompt", parent=asked.context.traceparent) as told:
            passages = within_budget(asked.found.passages, self._context_tokens)
            messages = self._prompt.messages(asked.question, passages, asked.history) if passages else []
            told.set({"llmops.prompt.passages": len(passages)})
        if not passages:
            yield from refusal(Usage())
            return
        book = CitationBook(asked.found, asked.context.principal, self._embedder)
        writing = _Writing(book, passages)
        parser, end = MarkerParser(), LlmEnd("stop", None)
        for event in self._client.stream(messages, asked.sampling, asked.context):
            if isinstance(event, LlmEnd):
                end = event
                continue
            for part in parser.feed(event.text):
                yield from writing.take(part)
        for part in parser.flush():
            yield from writing.take(part)
        counted = Usage(
            sum(estimate_tokens(message["content"]) for message in messages), estimate_tokens(writing.text), True
        )
        yield Answered(
            end.usage or counted,
            refused=not book.count and is_refusal(writing.text),
            finish_reason="length" if end.finish_reason == "length" else "stop",
        )


def is_refusal(text: str) -> bool:
    """Whether an answer without citations says that it does not know; an empty one says nothing else."""
    return not text.strip() or _REFUSALS.match(text.strip()) is not None


class _Writing:
    """The answer so far, as far as it takes to know which claim a marker stands behind."""

    def __init__(self, book: CitationBook, passages: tuple[Found, ...]) -> None:
        self.text = ""
        self._book = book
        self._passages = passages

    def take(self, part: str | Marker) -> Iterator[Delta | Citation]:
        if isinstance(part, str):
            self.text += part
            yield Delta(part)
            return
        for number in part.numbers:
            yield from self._mark(number, part.blank)

    def _mark(self, number: int, blank: str) -> Iterator[Delta | Citation]:
        """One marker: it passes, renumbered, where its passage exists and supports the claim; else it is dropped."""
        if not 1 <= number <= len(self._passages):
            return
        passage = self._passages[number - 1]
        span = self._book.support(self._claim(), passage)
        cited = self._book.cite(passage, *span) if span else None
        if cited is None:
            return
        yield Delta(f"{blank}[{cited[0]}]")
        if cited[1] is not None:
            yield cited[1]

    def _claim(self) -> str:
        """The sentence that the answer has just said."""
        said = self.text[-_CLAIM_CHARS:].rstrip()
        ends = [match.end() for match in _SENTENCE_END.finditer(said) if match.end() < len(said)]
        return said[ends[-1] :] if ends else said
