"""The words of a text and of an example, as duplicates and contamination are found by them: no case, no punctuation.

What a system turn says is the same in many rows and tells nothing of any: it is left out where rows are compared.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash

from llmops.finetune.data.examples import Completion, Conversation, Example, Message, Text, Thumb

Hashes = npt.NDArray[np.uint64]
_WORD = re.compile(r"\w+")
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
"""Soft hyphens, spaces of no width, marks of direction: they would part a word, or hide that two are one."""
_SILENT = ("system", "developer")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """One spelling of each: full width, ligatures and accents written apart say the same, and so do unseen marks."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _UNSEEN.sub("", text))
    return _WORD.findall(text.casefold())


def normalised(text: str) -> str:
    """The text as its words; where it has none, as it is."""
    return " ".join(words(text)) or text.strip()


def question(example: Example) -> str:
    """What is asked, in plain words; of a text all of it."""
    content = example.content
    if isinstance(content, Text):
        return normalised(content.text)
    if isinstance(content, Completion):
        return normalised(content.prompt)
    if isinstance(content, Conversation):
        answers = [place for place, message in enumerate(content.messages) if message.role == "assistant"]
        return _said(content.messages[: answers[-1]] if answers else content.messages)
    return _said(content.prompt)


def questions(example: Example) -> list[str]:
    """All that is asked on the way: of a conversation what stands before each answer, since each is learned."""
    content = example.content
    if not isinstance(content, Conversation):
        return [question(example)]
    answers = [place for place, message in enumerate(content.messages) if message.role == "assistant"]
    return [_said(content.messages[:place]) for place in answers] or [question(example)]


def passages(example: Example) -> list[str]:
    """All that is said in an example, turn by turn."""
    content = example.content
    if isinstance(content, Text):
        return [content.text]
    if isinstance(content, Completion):
        return [content.prompt, content.completion]
    if isinstance(content, Conversation):
        return _spoken(content.messages)
    said = [content.completion] if isinstance(content, Thumb) else [content.chosen, content.rejected]
    return [*_spoken(content.prompt), *said]


def shingles(text: str, size: int) -> Hashes:
    """A hash of each run of `size` words, in order; of a shorter text one of all its words."""
    found = words(text)
    if not found:
        return np.empty(0, np.uint64)
    hashes = np.asarray([xxhash.xxh3_64_intdigest(word.encode()) for word in found], np.uint64)
    size = min(size, len(found))
    total = np.zeros(len(found) - size + 1, np.uint64)
    for place in range(size):
        total = (total ^ hashes[place : len(hashes) - size + 1 + place]) * _FACTOR
        total ^= total >> np.uint64(29)
    return total


def _said(messages: Iterable[Message]) -> str:
    return normalised("\n".join(_spoken(messages)))


def _spoken(messages: Iterable[Message]) -> list[str]:
    return [message.content for message in messages if message.role not in _SILENT]
