"""How good a model is on held-out examples, example by example: loss, token accuracy, exact match, preferences.

The same code measures the model before and after, in one order, so that the figures pair. Losses are teacher-forced
over supervised tokens; exact match is a greedy answer, asked as serving would ask. Imports torch when it measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmops.finetune.config import FinetuneConfig
from llmops.finetune.data.dataset import Dataset
from llmops.finetune.data.examples import Example, Preference, Text, Thumb
from llmops.finetune.data.packing import Document, collate
from llmops.finetune.data.template import Renderer

_TOKENS_AT_ONCE = 8192
_ANSWERS_AT_ONCE = 64


@dataclass(frozen=True)
class Measured:
    """Figures of one model: metric -> one value an example, in the order of `ids`.

    Args:
        ids: of the held-out examples that were measured.
        answers: what it said to each, where it was asked to generate.
        log_probabilities: of preferences and thumbs: of each answer given its prompt (chosen, rejected or completion).
    """

    ids: tuple[str, ...]
    figures: Mapping[str, tuple[float, ...]]
    answers: tuple[str, ...] = ()
    log_probabilities: tuple[tuple[float, ...], ...] = ()

    def means(self) -> dict[str, float]:
        return {name: sum(values) / len(values) for name, values in self.figures.items() if values}


@dataclass(frozen=True)
class _Row:
    """What a model makes of one row of tokens: sums over its supervised tokens."""

    log_probability: float
    right: int
    supervised: int


def measure(model: Any, tokenizer: Any, data: Dataset, config: FinetuneConfig, *, generate: bool = True) -> Measured:
    """Measure a model on the held-out examples of a data set, at most `eval.max_examples` of them.

    Conversations, completions and texts: loss and token accuracy over supervised tokens; exact match of a greedy answer
    where there is something to answer. Preferences: preference_accuracy, whether chosen is likelier than rejected.
    """
    places = chosen(data, config.eval.max_examples)
    examples = [data.heldout_examples[place] for place in places]
    rows = rows_of(data, places)
    documents = [Document("", *data.heldout.arrays(row)) for some in rows for row in some]
    model.eval()
    found = iter(_rows(model, documents, _pad(tokenizer)))
    by_example = [[next(found) for _ in some] for some in rows]
    figures, log_probabilities = _figures(examples, by_example)
    answers: tuple[str, ...] = ()
    if generate and examples and not any(isinstance(one.content, Preference | Thumb | Text) for one in examples):
        answers = tuple(answered(model, tokenizer, examples, config))
        renderer = Renderer(tokenizer, config)
        figures["exact_match"] = tuple(
            float(said.strip() == renderer.answer(example).strip())
            for said, example in zip(answers, examples, strict=True)
        )
    return Measured(tuple(one.id for one in examples), figures, answers, log_probabilities)


def margins(before: Measured, after: Measured, beta: float) -> tuple[float, ...]:
    """Reward margins: how much further the model moved towards chosen than towards rejected, times beta.

    Of a thumb: how far it moved towards a liked answer, or away from a disliked one, is for the caller to sign.

    Source: Rafailov et al., Direct Preference Optimization, 2023, equation 5: reward = beta * log(policy / reference).
    """
    found = []
    for was, now in zip(before.log_probabilities, after.log_probabilities, strict=True):
        moved = [beta * (new - old) for old, new in zip(was, now, strict=True)]
        found.append(moved[0] - moved[1] if len(moved) > 1 else moved[0])
    return tuple(found)


def log_probabilities(model: Any, documents: Sequence[Document], pad: int) -> list[float]:
    """Of each document's supervised tokens together, given what stands before them."""
    return [row.log_probability for row in _rows(model, documents, pad)]


def answered(model: Any, tokenizer: Any, examples: Sequence[Example], config: FinetuneConfig) -> list[str]:
    """A greedy answer to each example's prompt, as text without special tokens."""
    import torch

    renderer = Renderer(tokenizer, config)
    prompts = [list(renderer.prompt(example)) for example in examples]
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    found = [""] * len(prompts)
    device = next(model.parameters()).device
    for start in range(0, len(order), _ANSWERS_AT_ONCE):
        some = order[start : start + _ANSWERS_AT_ONCE]
        width = max(len(prompts[place]) for place in some)
        ids = [[_pad(tokenizer)] * (width - len(prompts[place])) + prompts[place] for place in some]
        seen = [[0] * (width - len(prompts[place])) + [1] * len(prompts[place]) for place in some]
        with torch.inference_mode():
            told = model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(seen, device=device),
                generation_config=_greedy(tokenizer, config),
            )
        texts = tokenizer.batch_decode(told[:, width:], skip_special_tokens=True)
        for place, text in zip(some, texts, strict=True):
            found[place] = text
    return found


def _greedy(tokenizer: Any, config: FinetuneConfig) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        use_cache=True,
        max_new_tokens=config.eval.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=_pad(tokenizer),
    )


def _figures(
    examples: Sequence[Example], rows: Sequence[Sequence[_Row]]
) -> tuple[dict[str, tuple[float, ...]], tuple[tuple[float, ...], ...]]:
    sums = tuple(tuple(row.log_probability for row in some) for some in rows)
    if any(isinstance(one.content, Preference) for one in examples):
        return {"preference_accuracy": tuple(float(one[0] > one[1]) for one in sums)}, sums
    if any(isinstance(one.content, Thumb) for one in examples):
        return {}, sums
    counts = [max(1, sum(row.supervised for row in some)) for some in rows]
    return {
        "loss": tuple(-sum(one) / count for one, count in zip(sums, counts, strict=True)),
        "token_accuracy": tuple(
            sum(row.right for row in some) / count for some, count in zip(rows, counts, strict=True)
        ),
    }, ()


def _rows(model: Any, documents: Sequence[Document], pad: int) -> list[_Row]:
    """Each document by itself in its row, those of a length together."""
    import torch

    from llmops.finetune.engines.loss import SupervisedLoss, tensors

    order = sorted(range(len(documents)), key=lambda place: len(documents[place].ids))
    found: list[_Row] = [_Row(0.0, 0, 0)] * len(documents)
    loss = SupervisedLoss(model)
    device = next(model.parameters()).device.type
    try:
        for some in _batches(order, documents):
            batch = collate([[documents[place]] for place in some], pad)
            given = tensors(batch, device)
            with torch.inference_mode():
                logits = loss.logits(model, given).float()
                scores = torch.log_softmax(logits, -1).gather(1, given["wanted"][:, None])[:, 0].double().cpu().numpy()
                right = (logits.argmax(-1) == given["wanted"]).cpu().numpy()
            row = given["places"].cpu().numpy() // batch.labels.shape[1]
            for number, place in enumerate(some):
                own = row == number
                found[place] = _Row(float(scores[own].sum()), int(right[own].sum()), int(own.sum()))
    finally:
        loss.remove()
    return found


def _batches(order: Sequence[int], documents: Sequence[Document]) -> list[list[int]]:
    batches: list[list[int]] = []
    for place in order:
        longest = len(documents[place].ids)
        if not batches or (len(batches[-1]) + 1) * longest > _TOKENS_AT_ONCE:
            batches.append([])
        batches[-1].append(place)
    return batches


def chosen(data: Dataset, most: int) -> list[int]:
    """Places of held-out examples, spread over all of them."""
    count = len(data.heldout_examples)
    if count <= most:
        return list(range(count))
    return [int(place) for place in np.linspace(0, count - 1, most).round()]


def rows_of(data: Dataset, places: Sequence[int]) -> list[list[int]]:
    by_example: dict[int, list[int]] = {place: [] for place in places}
    for row, example in enumerate(data.heldout.example.tolist()):
        if example in by_example:
            by_example[example].append(row)
    return [by_example[place] for place in places]


def _pad(tokenizer: Any) -> int:
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
