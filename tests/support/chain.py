"""A small real chain for tests of what stands around one: a few texts in memory, quoted, or told by an LLM.

It implements `llmops.core.chain.Chain` in full: access lists, citations with true offsets, passages, cancellation.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops.core.chain import (
    ChainContext,
    Citation,
    Delta,
    Done,
    Event,
    Message,
    PassageRef,
    PassageView,
    Retrieval,
    Step,
    Usage,
)
from llmops.core.errors import NotFoundError
from llmops.core.identity import EVERYONE, Principal
from llmops.core.llm import LlmClient, LlmEndpoint, LlmText, Sampling
from llmops.core.names import Ref

MARKER = re.compile(r"\[(\d+)\]")


@dataclass(frozen=True)
class Text:
    """One document: `acl` as in an index; every sentence is a passage."""

    uri: str
    title: str
    body: str
    page: int | None = 1
    acl: frozenset[str] = frozenset({EVERYONE})


TEXTS = (
    Text(
        "guide/ingest.pdf",
        "Refreshing the index",
        "The index equals its documents after every refresh. A renamed document embeds nothing, because vectors are "
        "kept by their text. Deleted documents leave the index with the next refresh. Broken files go to quarantine "
        "with the reason, and the run goes on.",
        page=3,
    ),
    Text(
        "guide/feedback.md",
        "Feedback",
        "Every thumb is kept with the request it judges. A reader may add a reason and a comment. Feedback becomes "
        "evaluation data and training data.",
        page=None,
    ),
    Text(
        "hr/salaries.docx",
        "Salaries",
        "The director's salary is a secret number of the board.",
        acl=frozenset({"board"}),
    ),
)


HOPPING = "In steps: "
"""What a question begins with that takes two searches."""


class SmallChain:
    """Answers from `texts`; from `llm` where one is given, by quoting otherwise."""

    def __init__(
        self,
        texts: Sequence[Text] = TEXTS,
        *,
        llm_url: str | None = None,
        prompt_version: str = "7",
        before_piece: Callable[[int, ChainContext], None] | None = None,
    ) -> None:
        self.version_info: dict[str, Any] = {"prompt_version": prompt_version, "index_version": "g1", "model": "small"}
        self.texts = texts
        self.closed = threading.Event()
        self._before_piece = before_piece
        self._llm = None
        if llm_url:
            endpoint = LlmEndpoint(llm_url, "test", timeout_s=60, attempts=1)
            self._llm = LlmClient(endpoint)

    def stream(self, messages: Sequence[Message], context: ChainContext) -> Iterator[Event]:
        question = messages[-1]["content"]
        if question.startswith(HOPPING):
            yield Step(1, question, 3)
            yield Step(2, "who repairs broken files", 1, {"team": ["north", "south"], "date": {"from": "2024"}})
        passages = self._retrieve(question, context.principal)
        yield Retrieval(passages, "g1", 12)
        told: list[str] = []
        cited: set[int] = set()
        usage = Usage(sum(len(m["content"].split()) for m in messages), 0, estimated=True)
        for number, piece in enumerate(self._pieces(messages, passages, context)):
            context.cancel.check()
            if self._before_piece is not None:
                self._before_piece(number, context)
            told.append(piece)
            yield Delta(piece)
            for marker in MARKER.findall("".join(told)):
                if int(marker) not in cited and 0 < int(marker) <= len(passages):
                    cited.add(int(marker))
                    found = passages[int(marker) - 1]
                    yield Citation(int(marker), found.uri, found.start, found.end, found.text, found.page, found.title)
        usage = Usage(usage.input_tokens, len(told), estimated=True)
        yield Done(usage, refused=not passages, generation="g1", index_seq=12, quoted=self._llm is None)

    def passage(self, ref: PassageRef, principal: Principal) -> PassageView:
        for text in self.texts:
            if text.uri == ref.uri and principal.reads(text.acl) and ref.end <= len(text.body):
                return PassageView(text.uri, text.title, text.page, text.body, ref.start, ref.end)
        raise NotFoundError("no such document", where=ref.uri)

    def close(self) -> None:
        self.closed.set()

    def _retrieve(self, question: str, principal: Principal) -> tuple[PassageRef, ...]:
        words = set(re.findall(r"\w{4,}", question.lower()))
        found = []
        for text in self.texts:
            if not principal.reads(text.acl):
                continue
            for match in re.finditer(r"[^.]+\.", text.body):
                sentence = match.group().strip()
                start = text.body.index(sentence, match.start())
                score = len(words & set(re.findall(r"\w{4,}", sentence.lower())))
                if score:
                    span = (start, start + len(sentence))
                    found.append(PassageRef(text.uri, *span, sentence, text.page, text.title, float(score)))
        return tuple(sorted(found, key=lambda ref: -(ref.score or 0))[:4])

    def _pieces(
        self, messages: Sequence[Message], passages: tuple[PassageRef, ...], context: ChainContext
    ) -> Iterator[str]:
        if self._llm is not None:
            for event in self._llm.stream(messages, Sampling(max_tokens=500), context):
                if isinstance(event, LlmText):
                    yield event.text
            return
        if not passages:
            yield "The documents do not answer this."
        for number, passage in enumerate(passages, 1):
            for word in passage.text.split():
                yield f"{word} "
            yield f"[{number}]\n\n"


@dataclass
class Shelf:
    """A version source: numbered chains of one asset and its aliases, moved by hand."""

    chains: dict[int, Callable[[], SmallChain]]
    aliases: dict[str, int] = field(default_factory=lambda: {"champion": 1})
    loaded: list[SmallChain] = field(default_factory=list)
    load_delay_s: float = 0.0

    def resolve(self, ref: Ref) -> Ref:
        version = ref.version if ref.version is not None else self.aliases.get(str(ref.alias))
        if version is None:
            if ref.alias == "champion":
                raise NotFoundError(f"`{ref.name}` has no champion", where=str(ref), code="no_champion")
            raise NotFoundError(f"`{ref.name}` has no alias `{ref.alias}`", where=str(ref))
        return Ref(ref.name, version=version)

    def load(self, ref: Ref) -> SmallChain:
        time.sleep(self.load_delay_s)
        chain = self.chains[int(ref.version or 0)]()
        self.loaded.append(chain)
        return chain
