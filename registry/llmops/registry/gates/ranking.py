"""Scorers of what was retrieved for a question: whether what is relevant was found, and how far up.

Knows passages in their order and what a question says is relevant. What was answered does not matter here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from llmops.registry.gates.wording import spaced

if TYPE_CHECKING:
    from llmops.registry.gates.questions import Question
    from llmops.registry.gates.trial import Answer, Passage

_NAME = re.compile(r"(recall|ndcg)@([1-9]\d{0,2})")


def ranking(name: str) -> Callable[[Question, Answer], float] | None:
    """The scorer that `recall@10` or `ndcg@5` names; None where the name is none of these."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    measure, k = recall if found[1] == "recall" else ndcg, int(found[2])
    return lambda question, answer: measure(question.relevant, answer.retrieved[:k])


def recall(relevant: Mapping[str, float], passages: Sequence[Passage]) -> float:
    """The share of what is relevant that any of the passages holds, or comes from."""
    texts = [spaced(passage.text) for passage in passages]
    found = sum(
        any(_holds(one, passage, text) for passage, text in zip(passages, texts, strict=True)) for one in relevant
    )
    return found / len(relevant)


def ndcg(relevant: Mapping[str, float], passages: Sequence[Passage]) -> float:
    """Gains of 2^grade - 1, discounted by place; each passage counts for the best thing not found before it.

    Source: Burges et al. 2005, Learning to Rank using Gradient Descent, section 5.
    """
    open_, gained = dict(sorted(relevant.items(), key=lambda item: -item[1])), 0.0
    for place, passage in enumerate(passages):
        text = spaced(passage.text)
        best = next((one for one in open_ if _holds(one, passage, text)), None)
        if best is not None:
            gained += _gain(open_.pop(best), place)
    ideal = sorted(relevant.values(), reverse=True)[: len(passages)]
    return gained / sum(_gain(grade, place) for place, grade in enumerate(ideal)) if ideal else 0.0


def _gain(grade: float, place: int) -> float:
    return float((2**grade - 1) / math.log2(place + 2))


def _holds(wanted: str, passage: Passage, text: str) -> bool:
    words = spaced(wanted)
    return wanted == passage.uri or (len(words) > 2 and words in text)
