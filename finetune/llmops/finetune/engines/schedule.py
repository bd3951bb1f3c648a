"""The learning rate of a step: a function of its number, so that there is nothing to resume."""

from __future__ import annotations

import math

from llmops.finetune.config import TrainConfig


def rate(train: TrainConfig, step: int, steps: int) -> float:
    """The rate of a step, counted from 0: up over the warm-up, then along the schedule, down to nearly nothing."""
    warmup = math.ceil(train.warmup_share * steps)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    shapes = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
    return train.lr * shapes[train.schedule]
