"""The chain: a conversation in, retrieved passages and an answer with checked citations out.

Knows the order of the steps and what a request may change about them. It knows no HTTP, no registry, and neither how
passages are found nor how answers are worded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from llmops.core.chain import (
    ChainContext,
    Done,
    Event,
    Message,
    PassageRef,
    PassageView,
    RequestSettings,
    Retrieval,
)
from llmops.core.errors import NotFoundError, TooLargeError, UserError
from llmops.core.identity import Principal
from llmops.core.llm import Sampling
from llmops.rag.answer.asked import Answered, Answerer, Asked
from llmops.rag.config import AnswerConfig
from llmops.rag.hops import Planner, search_in_hops
from llmops.rag.retrieve import Retrieved, Retriever, SearchIndex, StoredDocument

_VIEW_CHARS = 1200
"""How much of a document without pages is shown around a cited span, on each side."""

Condense = Callable[[str, Sequence[Message], ChainContext], str]
Value = str | int | float | bool


class AskedFor(RequestSettings):
    """What one request may lay over the chain's own settings; nothing here widens what its principal may read."""

    top_k: int | None = Field(None, ge=1, le=50)
    filters: dict[str, Value | list[Value]] = Field(default_factory=dict, max_length=20)
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class ChainParts:
    """What a chain is put together from, once, at loading.

    Args:
        reader: gives the current state of the pinned generation.
        planner: says what to search for next, where the settings allow several searches and there is an LLM.
        close: lets go of what the parts hold open.
    """

    reader: Callable[[], SearchIndex]
    retriever: Retriever
    answerer: Answerer
    condense: Condense
    config: AnswerConfig
    version_info: dict[str, Any] = field(default_factory=dict)
    planner: Planner | None = None
    close: Callable[[], None] = lambda: None


class RagChain:
    """Implements `core.chain.Chain`. Any number of answers may run at once."""

    def __init__(self, parts: ChainParts) -> None:
        self._parts = parts
        self.version_info = parts.version_info

    def stream(self, messages: Sequence[Message], context: ChainContext) -> Iterator[Event]:
        """See `Chain.stream`."""
        settings = AskedFor.read(context.settings)
        question, history = _conversation(messages, self._parts.config)
        context.cancel.check()
        standalone = self._parts.condense(question, history, context)
        config = self._parts.retriever.config
        if settings.top_k is not None:
            config = config.model_copy(update={"top_k": settings.top_k})

        def search(query: str, /) -> Retrieved:
            return self._parts.retriever.retrieve(query, context.principal, settings.filters, config)

        if self._parts.planner is None or config.hops == 1:
            found = search(standalone)
        else:
            for event in search_in_hops(standalone, search, self._parts.planner, config.hops, context):
                if isinstance(event, Retrieved):
                    found = event
                else:
                    yield event
        context.cancel.check()
        yield Retrieval(tuple(passage.ref() for passage in found.passages), found.generation, found.index_seq)
        asked = Asked(question, history, found, self._sampling(settings), context)
        for piece in self._parts.answerer.answer(asked):
            context.cancel.check()
            if not isinstance(piece, Answered):
                yield piece
                continue
            yield Done(piece.usage, piece.refused, found.generation, found.index_seq, piece.quoted, piece.finish_reason)

    def passage(self, ref: PassageRef, principal: Principal) -> PassageView:
        """See `Chain.passage`.

        Raises:
            NotFoundError: also where the document no longer holds the cited words.
        """
        document = self._parts.reader().document(ref.uri, principal)
        start, end = _place(document.text, ref)
        page, first, last = _frame(document, start, end)
        return PassageView(
            document.uri, document.title, page, document.text[first:last], start - first, min(end, last) - first
        )

    def close(self) -> None:
        self._parts.close()

    def _sampling(self, settings: AskedFor) -> Sampling:
        """The configured sampling, as far as the request narrows it."""
        llm = self._parts.config.llm
        most = llm.max_tokens if llm else Sampling.max_tokens
        temperature = llm.temperature if llm else Sampling.temperature
        return Sampling(
            max_tokens=min(settings.max_tokens or most, most),
            temperature=settings.temperature if settings.temperature is not None else temperature,
        )


def _conversation(messages: Sequence[Message], config: AnswerConfig) -> tuple[str, list[Message]]:
    """The question and what was said before it, as far as it is wanted. A caller's system messages have no say here.

    Raises:
        UserError: there is no question. TooLargeError: it is too long.
    """
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise UserError("the last message must be the user's question", where="messages", code="no_question")
    question = messages[-1]["content"].strip()
    if len(question) > config.max_question_chars:
        raise TooLargeError(
            f"the question has {len(question)} characters; {config.max_question_chars} are allowed",
            hint="shorten it: long documents belong into the index",
            code="question_too_long",
        )
    said = [message for message in messages[:-1] if message["role"] in ("user", "assistant")]
    kept = said[-config.history_messages :] if config.history_messages else []
    most = config.max_question_chars
    return question, [{"role": message["role"], "content": message["content"][:most]} for message in kept]


def _place(text: str, ref: PassageRef) -> tuple[int, int]:
    """Where the cited words stand now: at their offsets, or, in an edited document, where they moved to."""
    if 0 <= ref.start < ref.end <= len(text) and (not ref.text or text[ref.start : ref.end] == ref.text):
        return ref.start, ref.end
    moved = text.find(ref.text) if ref.text else -1
    if moved < 0:
        raise NotFoundError(
            "the document has changed: the cited words are no longer in it", where=ref.uri, hint="ask again"
        )
    return moved, moved + len(ref.text)


def _frame(document: StoredDocument, start: int, end: int) -> tuple[int | None, int, int]:
    """The page that holds the span, or the paragraphs around it: (page number, first character, last)."""
    for page in document.pages:
        if page.start <= start < page.end:
            return page.number, page.start, page.end
    text = document.text
    first, last = max(0, start - _VIEW_CHARS), min(len(text), end + _VIEW_CHARS)
    if first:
        line = text.find("\n", first, start)
        first = line + 1 if line >= 0 else first
    if last < len(text):
        line = text.rfind("\n", end, last)
        last = line if line >= 0 else last
    return None, first, last
