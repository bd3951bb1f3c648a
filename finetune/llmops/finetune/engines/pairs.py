"""What TRL's trainers learn from, in our tokens and our order: a step's rows are a function of seed and examples.

All steps' rows are laid out one after the other, so that going on at a step is jumping there. Tokens are those of the
prepared data, split where the answer begins; TRL tokenizes nothing but the prompts that it generates from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from llmops.core.errors import UserError
from llmops.finetune.data.controls import controls_of, told
from llmops.finetune.data.dataset import Dataset
from llmops.finetune.data.examples import Completion, Conversation, Example, Preference, Thumb
from llmops.finetune.data.order import Order
from llmops.finetune.data.rows import row_keys
from llmops.finetune.engines import Prepared

Row = dict[str, Any]


class Laid:
    """The examples of every step of a run.

    Args:
        per_step: examples of one step.
    """

    def __init__(self, job: Prepared, per_step: int) -> None:
        self.job, self.per_step = job, per_step
        self._data: Dataset = job.data
        count = len(self._data.examples)
        weights = [one.weight for one in job.config.data.sources if one.weight is not None]
        self._order = Order(
            row_keys(self._data.examples.ids, np.full(count, -1, np.int32)),
            np.ones(count, np.int64),
            self._data.examples.sources,
            seed=job.config.train.seed,
            weights=weights or None,
        )
        self._rows: dict[int, list[int]] = {}
        for row, example in enumerate(self._data.rows.example.tolist()):
            self._rows.setdefault(example, []).append(row)

    def places(self, step: int) -> list[int]:
        """Of the examples of a step, counted from 0."""
        first = step * self.per_step
        return [self._order.row(place)[1][0] for place in range(first, first + self.per_step)]

    def ids(self, step: int) -> tuple[str, ...]:
        return tuple(self._data.examples.ids[place].tobytes().hex() for place in self.places(step))

    def tokens(self, step: int) -> tuple[int, int]:
        """All tokens of a step, and those that are learned."""
        rows = [row for place in self.places(step) for row in self._rows.get(place, [])]
        supervised = sum(int(self._data.rows.arrays(row)[1].sum()) for row in rows)
        return sum(len(self._data.rows.arrays(row)[0]) for row in rows), supervised

    def all(self, make: Callable[[Laid, int], Row]) -> Iterator[Row]:
        """What `make` makes of each example, over all steps."""
        made: dict[int, Row] = {}
        for step in range(self.job.plan.steps):
            for place in self.places(step):
                if place not in made:
                    made[place] = make(self, place)
                yield made[place]

    def example(self, place: int) -> Example:
        return self._data.examples[place]

    def split(self, place: int) -> list[tuple[list[int], list[int]]]:
        """Of each row of an example the ids before its answer, and those of the answer."""
        found = []
        for row in self._rows[place]:
            ids, supervised = self._data.rows.arrays(row)
            learned = np.flatnonzero(supervised)
            if not len(learned):
                raise UserError("nothing of this row is supervised", where=self.example(place).where)
            begin, end = int(learned[0]), int(learned[-1]) + 1
            found.append((ids[:begin].tolist(), ids[begin:end].tolist()))
        return found


def preference(laid: Laid, place: int) -> Row:
    """For dpo: one prompt, two answers."""
    content = laid.example(place).content
    if not isinstance(content, Preference):
        raise _unfit(laid, place, "a preference: prompt, chosen, rejected")
    (prompt, chosen), (other, rejected) = laid.split(place)
    if prompt != other:
        raise UserError("chosen and rejected do not follow the same tokens", where=laid.example(place).where)
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def whole_preference(laid: Laid, place: int) -> Row:
    """For reward: two whole conversations."""
    row = preference(laid, place)
    prompt = row["prompt_ids"]
    return {"chosen_ids": prompt + row["chosen_ids"], "rejected_ids": prompt + row["rejected_ids"]}


def thumb(laid: Laid, place: int) -> Row:
    """For kto: an answer, liked or not; of a preference both are learned by `unpaired`."""
    content = laid.example(place).content
    if not isinstance(content, Thumb):
        raise _unfit(laid, place, "a thumb: prompt, completion, label")
    ((prompt, answer),) = laid.split(place)
    return {"prompt_ids": prompt, "completion_ids": answer, "label": content.liked}


def question(laid: Laid, place: int) -> Row:
    """For grpo, rloo and distill: what is asked, and the row's own answer, which reward functions may look at."""
    content = laid.example(place).content
    if isinstance(content, Completion):
        return {"prompt": content.prompt, "answer": content.completion}
    if isinstance(content, Conversation):
        controls = controls_of(laid.job.tokenizer)
        turns = [{**one.as_json(), "content": told(one.role, one.content, controls)} for one in content.messages]
        answered = turns[-1]["role"] == "assistant"
        return {"prompt": turns[:-1] if answered else turns, "answer": turns[-1]["content"] if answered else ""}
    raise _unfit(laid, place, "a conversation, or prompt and completion")


def mismatched(rows: list[Row], at_once: int) -> list[Row]:
    """Each thumb with another's answer of its step: what KTO measures its distance by."""
    found = []
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        others = [some[-1], *some[:-1]]
        found += [
            {**row, "KL_completion_ids": other["completion_ids"]} for row, other in zip(some, others, strict=True)
        ]
    return found


def _unfit(laid: Laid, place: int, wanted: str) -> UserError:
    task, example = laid.job.config.task, laid.example(place)
    return UserError(
        f"task {task} learns from {wanted}, and this row is a {type(example.content).__name__.lower()}",
        where=example.where,
        hint="choose the task that fits the data, or say data.sources.format",
    )
