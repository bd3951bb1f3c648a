"""Which examples are kept apart to judge by: decided by what is asked, so that no question stands on both sides.

Of a conversation that is what is asked first: another that goes on from the same turns learns the same answer to them.
The same example is on the same side whatever file it lies in, whatever was added since, and whichever seed trains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmops.core.ids import digest
from llmops.finetune.data.examples import Example
from llmops.finetune.data.words import question, questions

_WHOLE = 2**64


def heldout_ids(examples: Sequence[Example], share: float) -> set[str]:
    """The ids of the examples that are kept apart: about `share` of them; at least one, where there are two."""
    if not share or len(examples) < 2:
        return set()
    asked = [(questions(example)[0], question(example)) for example in examples]
    first, whole = Counter(one for one, _ in asked), Counter(one for _, one in asked)
    most = max(8, share * len(examples) / 2)  # one question for all rows would put all of them on one side
    sides = {}
    for example, (begun, said) in zip(examples, asked, strict=True):
        if begun and first[begun] <= most:
            sides[example.id] = _place(begun)
        else:
            sides[example.id] = _place(said if said and whole[said] <= most else example.id)
    kept = {one for one, place in sides.items() if place < share * _WHOLE}
    if not kept:
        least = min(sides.values())
        kept = {one for one, place in sides.items() if place == least}
    return kept if len(kept) < len(sides) else set()


def is_heldout(example: Example, share: float) -> bool:
    """Whether an example is kept apart, told without the others: where one question may be asked in many rows."""
    return bool(share) and _place(questions(example)[0] or example.id) < share * _WHOLE


def _place(key: str) -> int:
    return int(digest(["heldout", key])[:16], 16)
