"""Every check that there is, and the tasks that it is made for: a check by another name cannot be made.

docs/finetune-preflight.md says for each which trap it sees, and a test holds that page and the tasks to this list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from llmops.finetune.config import SUPERVISED, Task

EVERY: tuple[Task, ...] = get_args(Task)
PAIRED: tuple[Task, ...] = ("dpo", "kto", "reward")

CHECKS: Mapping[str, tuple[Task, ...]] = {
    "data.rows": EVERY,
    "data.overlong": EVERY,
    "data.contaminated": EVERY,
    "data.unsupervised": EVERY,
    "data.heldout": EVERY,
    "data.bad_rows": EVERY,
    "data.duplicates": EVERY,
    "data.format": EVERY,
    "data.supervised": EVERY,
    "data.end_of_turn": (*SUPERVISED, *PAIRED),
    "data.padding": EVERY,
    "data.begin": EVERY,
    "data.serving_ids": EVERY,
    "data.template": EVERY,
    "data.controls": EVERY,
    "data.vocabulary": EVERY,
    "data.pairs": ("dpo", "reward"),
    "data.thumbs": ("kto",),
    "data.givers": ("kto",),
    "fit.memory": EVERY,
    "fit.positions": EVERY,
    "fit.servable": EVERY,
    "fit.licence": EVERY,
    "fit.limits": EVERY,
    "model.tried": (),  # says only that a model is too large for the others of its kind
    "model.learns": EVERY,
    "model.cache": EVERY,
    "model.attention": SUPERVISED,
    "model.packed_loss": SUPERVISED,
    "model.batch_gradient": SUPERVISED,
    "model.applied": EVERY,
    "model.saved": EVERY,
    "model.merged": EVERY,
    "preference.groups": ("kto", "grpo", "rloo"),
    "preference.rewards": ("grpo", "rloo"),
    "preference.teacher": ("distill",),
    "preference.first_loss": (),  # of dpo and kto, made with the first step
    "export.merged": (),
    "export.pruned": (),
    "export.quantised": (),
    "export.served": (),
}
"""By name; empty where it is no part of what is looked at before a training."""
