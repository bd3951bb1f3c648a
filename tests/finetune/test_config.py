"""Numbers that no training has a use for are refused where they are written."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
from pydantic import ValidationError

from llmops.finetune.config import FinetuneConfig


@pytest.mark.parametrize(
    "section",
    [
        {"train": {"lr": inf}},
        {"train": {"budget": {"epochs": inf}}},
        {"train": {"seed": -1}},
        {"train": {"seed": 2**64}},
        {"eval": {"gate": {"reward_margin_min": nan}}},
        {"data": {"sources": [{"uri": "a", "weight": inf}]}},
        {"launch": {"price_per_gpu_h": nan}},
    ],
)
def test_what_is_no_number_is_refused(section: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FinetuneConfig.model_validate({"model": {"path": "m"}, "data": {"sources": [{"uri": "a"}]}, **section})
