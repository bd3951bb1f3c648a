"""What a row of training data is, whatever file it came from: one shape for each thing that can be learned from.

Knows no file and no tokenizer. `formats` makes these of rows, `template` makes tokens of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmops.core.ids import digest


@dataclass(frozen=True)
class Message:
    """One turn. `content` is text; tool calls stand in `extra` as the chat template wants them."""

    role: str
    content: str
    extra: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True)
class Conversation:
    """A chat, an instruction with its answer, or a prompt with its completion: turns, of which some are supervised."""

    messages: tuple[Message, ...]

    def as_json(self) -> dict[str, Any]:
        return {"messages": [message.as_json() for message in self.messages]}


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


@dataclass(frozen=True)
class Example:
    """One thing to learn from, and where it stands: `where` is `file:line`, or `table@version#row`.

    `id` is the SHA-256 of the content: equal examples are one, whatever file they lie in. Shuffling, splitting and
    dropout of rows are keyed by it, so they do not depend on the order in which files were read.
    """

    content: Content
    where: str
    source: int = 0

    @property
    def id(self) -> str:
        return digest({"kind": type(self.content).__name__, **self.content.as_json()})


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
