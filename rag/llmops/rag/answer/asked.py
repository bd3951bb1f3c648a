"""What every answerer is given, and what it gives back: the seam between finding passages and wording an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from llmops.core.chain import ChainContext, Citation, Delta, Message, Usage
from llmops.core.llm import Sampling
from llmops.rag.retrieve import Retrieved

DONT_KNOW = "I don't know: the documents do not answer this question."
"""The whole answer where the passages do not answer; prompts ask an LLM for the same words."""


@dataclass(frozen=True)
class Asked:
    """One question on its way to an answer.

    Args:
        question: as the user wrote it.
        history: the messages before it, oldest first, user's and assistant's only.
        found: what retrieval gave for the stand-alone form of the question.
    """

    question: str
    history: Sequence[Message]
    found: Retrieved
    sampling: Sampling
    context: ChainContext


@dataclass(frozen=True)
class Answered:
    """How an answer ended."""

    usage: Usage
    refused: bool
    quoted: bool = False
    finish_reason: Literal["stop", "length"] = "stop"


Piece = Delta | Citation | Answered


class Answerer(Protocol):
    """Words an answer from passages: deltas, each citation right after its marker's delta, then one `Answered`."""

    def answer(self, asked: Asked) -> Iterator[Piece]: ...


def refusal(usage: Usage) -> Iterator[Piece]:
    """The answer where the passages do not answer."""
    yield Delta(DONT_KNOW)
    yield Answered(usage, refused=True)
