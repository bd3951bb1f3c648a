"""The chain: a conversation in, retrieved passages and an answer with checked citations out.

Knows the order of the steps and what a request may change about them. It knows no HTTP, no registry, and neither how
passages are found nor how answers are worded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

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
    Step,
)
from llmops.core.errors import NotFoundError, TooLargeError, UserError
from llmops.core.identity import Principal
from llmops.core.llm import Sampling
from llmops.core.tracing import Span, keeps_content, span
from llmops.rag.answer.asked import Answered, Answerer, Asked
from llmops.rag.config import AnswerConfig, RetrievalConfig
from llmops.rag.hops import Planner, search_in_hops
from llmops.rag.joined import JoinedIndex, JoinedRetriever
from llmops.rag.retrieve import Retrieved, Retriever, SearchIndex, StoredDocument
from llmops.rag.selfquery import VALUES_SHOWN, SelfQuery

_VIEW_CHARS = 1200
"""How much of a document without pages is shown around a cited span, on each side."""

Condense = Callable[[str, Sequence[Message], ChainContext], str]
Value = str | int | float | bool
Range = dict[Literal["from", "to"], str | int | float]


class AskedFor(RequestSettings):
    """What one request may lay over the chain's own settings; nothing here widens what its principal may read."""

    top_k: int | None = Field(None, ge=1, le=50)
    filters: dict[str, Value | list[Value] | Range] = Field(default_factory=dict, max_length=20)
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class ChainParts:
    """What a chain is put together from, once, at loading.

    Args:
        reader: gives the current state of the pinned generation.
        planner: says what to search for next, where the settings allow several searches and there is an LLM.
        self_query: reads filters out of a question, where facts are declared and there is an LLM.
        close: lets go of what the parts hold open.
    """

    reader: Callable[[], SearchIndex | JoinedIndex]
    retriever: Retriever | JoinedRetriever
    answerer: Answerer
    condense: Condense
    config: AnswerConfig
    version_info: dict[str, Any] = field(default_factory=dict)
    planner: Planner | None = None
    self_query: SelfQuery | None = None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class _Searching:
    """How one exchange searches."""

    filters: dict[str, Any]
    config: RetrievalConfig
    context: ChainContext


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
        with span("condense", parent=context.traceparent):
            standalone = self._parts.condense(question, history, context)
        config = self._parts.retriever.config
        if settings.top_k is not None:
            config = config.model_copy(update={"top_k": settings.top_k})

        found: Retrieved | None = None
        for event in self._search(standalone, _Searching(settings.filters, config, context)):
            if isinstance(event, Retrieved):
                found = event
            else:
                yield event
        assert found is not None
        context.cancel.check()
        yield Retrieval(tuple(passage.ref() for passage in found.passages), found.generation, found.index_seq)
        yield from self._answer(Asked(question, history, found, self._sampling(settings), context))

    def _search(self, question: str, how: _Searching) -> Iterator[Step | Retrieved]:
        """The searches of a question; the last value is all that was found."""
        read = self._read_filters(question, how)
        narrowed = replace(how, filters={**read, **how.filters}) if read else how
        first = self._retrieve(question, narrowed, lenient=bool(read))
        if read and (first is None or not first.passages):
            yield Step(1, question, 0, read)
            read, narrowed, first, before = {}, how, self._retrieve(question, how), 1
        else:
            before = 0
        assert first is not None
        kept = {question: first}

        def search(query: str, /) -> Retrieved:
            found = kept.pop(query, None) or self._retrieve(query, narrowed)
            assert found is not None
            return found

        if self._parts.planner is None or how.config.hops == 1:
            if read or before:
                yield Step(before + 1, question, len(first.passages), read or None)
            yield first
            return
        for event in search_in_hops(question, search, self._parts.planner, how.config.hops, how.context):
            if isinstance(event, Step):
                event = replace(event, number=event.number + before, filters=read or None)  # noqa: PLW2901
            yield event

    def _read_filters(self, question: str, how: _Searching) -> dict[str, Any]:
        """What the question itself says about the documents to search, where the chain has a model to read it."""
        reads = self._parts.self_query
        if reads is None:
            return {}
        with span("self_query", parent=how.context.traceparent) as told:
            values = self._parts.reader().values(how.context.principal, reads.facts, VALUES_SHOWN)
            filters = reads.filters(question, values, how.context)
            told.set({"llmops.search.filters": sorted(filters)})
        return filters

    def _retrieve(self, query: str, how: _Searching, *, lenient: bool = False) -> Retrieved | None:
        """One search; None where a filter fits no document at all, if that is no mistake of the caller's."""
        try:
            with self._searching(query, how.config, how.context) as told:
                found = self._parts.retriever.retrieve(query, how.context.principal, how.filters, how.config)
                _tell(told, found)
        except UserError:
            if not lenient:
                raise
            return None
        return found

    def _searching(self, query: str, config: RetrievalConfig, context: ChainContext) -> Span:
        index = self.version_info.get("index_version")
        return span(
            f"retrieval {index}",
            {
                "gen_ai.operation.name": "retrieval",
                "gen_ai.data_source.id": index,
                "gen_ai.request.top_k": config.top_k,
                "gen_ai.retrieval.query.text": query if keeps_content() else None,
            },
            parent=context.traceparent,
        )

    def _answer(self, asked: Asked) -> Iterator[Event]:
        """The answer's events; its steps belong under a span of their own, which no other thread waits for."""
        told = span("answer", parent=asked.context.traceparent)
        inner = replace(asked.context, traceparent=told.traceparent or asked.context.traceparent)
        found = asked.found
        try:
            for piece in self._parts.answerer.answer(replace(asked, context=inner)):
                asked.context.cancel.check()
                if not isinstance(piece, Answered):
                    yield piece
                    continue
                told.set({"llmops.refused": piece.refused, "llmops.quoted": piece.quoted})
                yield Done(
                    piece.usage, piece.refused, found.generation, found.index_seq, piece.quoted, piece.finish_reason
                )
        except BaseException as error:
            told.fail(error)
            raise
        finally:
            told.end()

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


def _tell(told: Span, found: Retrieved) -> None:
    """Put into a search's span what it found; which documents, only where content may be kept."""
    if not told.recording:
        return
    told.set(
        {
            "llmops.retrieval.passages": len(found.passages),
            "llmops.index.generation": found.generation,
            "llmops.index.seq": found.index_seq,
        }
    )
    if keeps_content():
        shown = [{"id": one.chunk.uri, "score": round(one.score, 4)} for one in found.passages]
        told.set({"gen_ai.retrieval.documents": json.dumps(shown)})


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
