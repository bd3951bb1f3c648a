"""How good a model is on held-out examples, example by example: loss, token accuracy, exact match, preferences.

The same code measures the model before and after, in one order, so that the figures pair. Knows torch when it measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.finetune.config import FinetuneConfig
from llmops.finetune.data.dataset import Dataset


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


def measure(model: Any, tokenizer: Any, data: Dataset, config: FinetuneConfig, *, generate: bool = True) -> Measured:
    """Measure a model on the held-out examples of a data set, at most `eval.max_examples` of them.

    Conversations, completions and texts: loss and token accuracy over supervised tokens; exact match of a greedy answer
    where there is something to answer. Preferences: preference_accuracy, whether chosen is likelier than rejected.
    """
    raise NotImplementedError


def margins(before: Measured, after: Measured, beta: float) -> tuple[float, ...]:
    """Reward margins: how much further the model moved towards chosen than towards rejected, times beta.

    Source: Rafailov et al., Direct Preference Optimization, 2023, equation 5: reward = beta * log(policy / reference).
    """
    raise NotImplementedError


def log_probabilities(model: Any, rows: Sequence[Any], *, rows_at_once: int = 8) -> list[float]:
    """Of each row's supervised tokens together, given what stands before them."""
    raise NotImplementedError
