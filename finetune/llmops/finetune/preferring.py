"""What preference, reward and generating tasks are judged by, beside losses: example by example, before and after.

- Of a preference: whether chosen is likelier than rejected; of a reward model, whether it scores higher.
- Of a thumb: the share of thumbs of the other kind that it stands on the right side of, by how far the model moved from
  its base towards each answer. The base itself has not moved: one half.
- Of a question: what the job's reward functions give the model's greedy answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llmops.finetune.data.examples import Completion, Conversation, Example, Thumb
from llmops.finetune.engines import Prepared
from llmops.finetune.evaluate import Measured, answered, chosen, margins, rows_of
from llmops.finetune.results import Scored


def preferred(before: Measured, after: Measured, job: Prepared) -> tuple[Scored, ...]:
    """What only both models together tell: reward margins, and how thumbs are told apart."""
    if not after.log_probabilities:
        return ()
    moved = np.asarray(margins(before, after, job.config.preference.beta))
    liked = _liked(job, after)
    if liked is None:
        return (Scored("reward_margin", tuple(moved.tolist()), before=tuple([0.0] * len(moved))),)
    found = [Scored("reward_margin", tuple(np.where(liked, moved, -moved).tolist()), before=tuple([0.0] * len(moved)))]
    if liked.any() and not liked.all():
        half = tuple([0.5] * len(moved))
        found.append(Scored("preference_accuracy", tuple(told_apart(moved, liked)), before=half))
    return tuple(found)


def told_apart(values: Any, liked: Any) -> list[float]:
    """For each example the share of those of the other kind that it is on the right side of; level ones count half.

    Their mean is the area under the ROC curve.
    """
    found = []
    for value, good in zip(values, liked, strict=True):
        others = values[liked != good]
        better = (value > others) if good else (value < others)
        found.append(float(np.mean(better + 0.5 * (value == others))))
    return found


def scored_pairs(model: Any, job: Prepared) -> Measured:
    """A reward model's scores of held-out preferences."""
    import torch

    places = chosen(job.data, job.config.eval.max_examples)
    device = next(model.parameters()).device
    model.eval()
    right, gaps = [], []
    for rows in rows_of(job.data, places):
        with torch.inference_mode():
            scores = [
                float(model(input_ids=torch.tensor([_scored_part(job, row)], device=device)).logits[0, 0])
                for row in rows[:2]
            ]
        right.append(float(scores[0] > scores[1]))
        gaps.append(scores[0] - scores[1])
    ids = tuple(job.data.heldout_examples[place].id for place in places)
    return Measured(ids, {"preference_accuracy": tuple(right), "reward_margin": tuple(gaps)})


def rewarded(model: Any, job: Prepared, measured: Measured) -> Measured:
    """The job's rewards of greedy answers, beside what was measured."""
    from llmops.finetune.engines.rewards import rewards

    examples = [job.data.heldout_examples[place] for place in chosen(job.data, job.config.eval.max_examples)]
    said = answered(model, job.tokenizer, examples, job.config)
    asked, answers = [_asked(one) for one in examples], [_answer(one) for one in examples]
    talks = [not isinstance(one, str) for one in asked]
    told = [[{"role": "assistant", "content": text}] if talk else text for text, talk in zip(said, talks, strict=True)]
    given = [np.asarray(reward(prompts=asked, completions=told, answer=answers), np.float64) for reward in
             rewards(job.config)]  # fmt: skip
    total = tuple(np.sum(given, axis=0).tolist())
    return replace(measured, figures={**measured.figures, "reward": total}, answers=tuple(said))


def _liked(job: Prepared, after: Measured) -> Any:
    """Which of the measured thumbs are up; None where they are preferences."""
    places = chosen(job.data, job.config.eval.max_examples)
    contents = [job.data.heldout_examples[place].content for place in places]
    thumbs = [content.liked for content in contents if isinstance(content, Thumb)]
    return np.asarray(thumbs) if len(thumbs) == len(after.ids) else None


def _scored_part(job: Prepared, row: int) -> list[int]:
    """A row up to the end of its answer, as the reward model learned to score it."""
    ids, supervised = job.data.heldout.arrays(row)
    return list(ids[: int(np.flatnonzero(supervised)[-1]) + 1].tolist())


def _asked(example: Example) -> str | Sequence[dict[str, Any]]:
    content = example.content
    if isinstance(content, Completion):
        return content.prompt
    assert isinstance(content, Conversation)
    turns = [one.as_json() for one in content.messages]
    return turns[:-1] if turns[-1]["role"] == "assistant" else turns


def _answer(example: Example) -> str:
    content = example.content
    if isinstance(content, Completion):
        return content.completion
    assert isinstance(content, Conversation)
    last = content.messages[-1]
    return last.content if last.role == "assistant" else ""
