"""The words of a text and of an example, as duplicates and contamination are found by them: no case, no punctuation."""

from __future__ import annotations

import re

from llmops.finetune.data.examples import Completion, Conversation, Example, Text, Thumb

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def normalised(text: str) -> str:
    """The text as its words; where it has none, as it is."""
    return " ".join(words(text)) or text.strip()


def text_of(example: Example) -> str:
    """All that is said in an example."""
    content = example.content
    if isinstance(content, Text):
        return content.text
    if isinstance(content, Completion):
        return f"{content.prompt}\n{content.completion}"
    if isinstance(content, Conversation):
        return "\n".join(message.content for message in content.messages)
    said = [content.completion] if isinstance(content, Thumb) else [content.chosen, content.rejected]
    return "\n".join([*(message.content for message in content.prompt), *said])
