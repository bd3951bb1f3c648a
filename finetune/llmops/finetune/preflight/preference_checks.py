"""What the first loss of a preference task has to be, before any weight has changed: then both models are one.

Knows figures only. A model that begins elsewhere compares itself with another reference than the one it began as.
"""

from __future__ import annotations

import math

from llmops.finetune.config import FinetuneConfig
from llmops.finetune.preflight import Check

TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}


def first_loss(config: FinetuneConfig) -> float | None:
    """The loss of a model that is its own reference; None where the task has none such.

    Source: DPO (arXiv 2305.18290), equation 7: -log sigmoid(0) = ln 2. KTO (arXiv 2402.01306), equation 8: of a weight
    times 1 - sigmoid(0), one half of it.
    """
    preference = config.preference
    if config.task == "dpo" and preference.loss == "sigmoid":
        return math.log(2)
    if config.task == "kto" and preference.desirable_weight == preference.undesirable_weight:
        return 0.5 * preference.desirable_weight
    return None


def first_loss_check(config: FinetuneConfig, loss: float, precision: str = "fp32") -> Check:
    """Hold the first step's loss against what it has to be."""
    wanted = first_loss(config)
    if wanted is None:
        return Check("preference.first_loss", "skipped", f"the first loss was {loss:.4f}")
    if abs(loss - wanted) <= TOLERANCE.get(precision, TOLERANCE["fp32"]):
        return Check("preference.first_loss", "pass", f"the first loss is {loss:.4f}: the reference is the base")
    return Check(
        "preference.first_loss",
        "fail",
        f"the first loss is {loss:.4f}, and of a model that begins as its own reference it is {wanted:.4f}",
        hint="the reference is another model than the one that learns: load both from the same base, without dropout",
        figures={"loss": loss, "wanted": wanted},
    )
