"""Which examples are kept apart to judge by: decided by what is asked, so that no question stands on both sides.

The same example is on the same side whatever file it lies in, whatever was added since, and whichever seed trains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from llmops.core.ids import digest
from llmops.finetune.data.examples import Completion, Conversation, Example, Text
from llmops.finetune.data.words import normalised

_WHOLE = 2**64


def asked(example: Example) -> str:
    """What is asked in an example, in plain words; of a text all of it."""
    content = example.content
    if isinstance(content, Text):
        return normalised(content.text)
    if isinstance(content, Completion):
        return normalised(content.prompt)
    if isinstance(content, Conversation):
        answers = [place for place, message in enumerate(content.messages) if message.role == "assistant"]
        turns = content.messages[: answers[-1]] if answers else content.messages
        return normalised("\n".join(message.content for message in turns))
    return normalised("\n".join(message.content for message in content.prompt))


def heldout(examples: Sequence[Example], share: float, groups: Mapping[str, str] | None = None) -> set[str]:
    """The ids of the examples that are kept apart: about `share` of them, at least one of two.

    Args:
        groups: id -> what stands for all that nearly equal it; these stay together too.
    """
    if not share or len(examples) < 2:
        return set()
    questions = [asked(example) for example in examples]
    often = Counter(questions)
    most = max(8, share * len(examples) / 2)  # one question for all rows would put all of them on one side
    sides: dict[str, int] = {}
    for example, question in zip(examples, questions, strict=True):
        key = question if question and often[question] <= most else example.id
        sides[example.id] = _place((groups or {}).get(example.id) or key)
    kept = {one for one, place in sides.items() if place < share * _WHOLE}
    if not kept:
        least = min(sides.values())
        kept = {one for one, place in sides.items() if place == least}
    return kept if len(kept) < len(sides) else set()


def _place(key: str) -> int:
    return int(digest(["heldout", key])[:16], 16)
