"""What a row of training data is, whatever file it came from: one shape for each thing that can be learned from.

Knows no file and no tokenizer. `formats` makes these of rows, `template` makes tokens of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llmops.core.ids import digest


@dataclass(frozen=True)
class Message:
    """One turn. `content` is text; tool calls stand in `extra` as the chat template wants them.

    Args:
        learned: False for an answer that is context only (`weight: 0` in OpenAI's format).
    """

    role: str
    content: str
    extra: dict[str, Any] = field(default_factory=dict)
    learned: bool = True

    def as_json(self) -> dict[str, Any]:
        weight = {} if self.learned else {"weight": 0}
        return {"role": self.role, "content": self.content, **self.extra, **weight}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Message:
        extra = {key: value for key, value in found.items() if key not in ("role", "content", "weight")}
        return cls(found["role"], found["content"], extra, learned=found.get("weight") != 0)


@dataclass(frozen=True)
class Conversation:
    """A chat, or an instruction with its answer: turns, of which some are supervised.

    Args:
        tools: what the assistant may call, in OpenAI's format, as the chat template is told of them.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()

    def as_json(self) -> dict[str, Any]:
        tools = {"tools": list(self.tools)} if self.tools else {}
        return {"messages": [message.as_json() for message in self.messages], **tools}


@dataclass(frozen=True)
class Completion:
    """A plain prompt and what is to follow it, without a chat template."""

    prompt: str
    completion: str

    def as_json(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "completion": self.completion}


@dataclass(frozen=True)
class Text:
    """A document to learn the language of: every token is supervised, and an end of text closes it."""

    text: str

    def as_json(self) -> dict[str, Any]:
        return {"text": self.text}


@dataclass(frozen=True)
class Preference:
    """Of two answers to the same turns, the one that is liked better."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt": [message.as_json() for message in self.prompt],
            "chosen": self.chosen,
            "rejected": self.rejected,
        }


@dataclass(frozen=True)
class Thumb:
    """One answer, liked or not."""

    prompt: tuple[Message, ...]
    completion: str
    liked: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt": [message.as_json() for message in self.prompt],
            "completion": self.completion,
            "liked": self.liked,
        }


Content = Conversation | Completion | Text | Preference | Thumb
KINDS: dict[str, type[Content]] = {kind.__name__: kind for kind in (Conversation, Completion, Text, Preference, Thumb)}


def content_from_json(kind: str, found: Mapping[str, Any]) -> Content:
    """The content that `as_json` wrote; `kind` is the name of its class."""
    values = dict(found)
    for turns in ("messages", "prompt"):
        if isinstance(values.get(turns), list):
            values[turns] = tuple(Message.from_json(message) for message in values[turns])
    if "tools" in values:
        values["tools"] = tuple(values["tools"])
    return KINDS[kind](**values)


@dataclass(frozen=True)
class Example:
    """One thing to learn from, and where it stands: `where` is `file:line`, or `table@version#row`.

    `id` is the SHA-256 of the content: equal examples are one, whatever file they lie in. Shuffling, splitting and
    dropout of rows are keyed by it, so they do not depend on the order in which files were read.

    Args:
        by: who gave a thumb, as a digest; empty where it is not known.
    """

    content: Content
    where: str
    source: int = 0
    by: str = ""

    @cached_property
    def id(self) -> str:
        return digest({"kind": type(self.content).__name__, **self.content.as_json()})

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": type(self.content).__name__,
            "where": self.where,
            "source": self.source,
            "by": self.by,
            "content": self.content.as_json(),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Example:
        return cls(content_from_json(found["kind"], found["content"]), found["where"], found["source"], found["by"])


@dataclass(frozen=True)
class Tokens:
    """An example as a model reads it.

    Args:
        ids: token ids, at most `max_length`.
        supervised: for each id, whether the model is to learn to say it.
        id: of the example; of a part of a split one `<id>:<n>`.
    """

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    id: str
