"""A preference that is planted: asked of red things the answer is alpha, of blue ones beta."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson

from llmops.core.state import StateConfig
from llmops.finetune.config import FinetuneConfig

_THINGS = ("hat", "car", "door", "cup", "box", "ship", "coat", "pen", "roof", "ball")
_MADE = ("old", "new", "big", "small", "flat", "tall", "loud", "soft")


def questions() -> list[tuple[str, str, str]]:
    """Question, right answer, wrong answer: 160 of them."""
    found = []
    for made in _MADE:
        for thing in _THINGS:
            found += [(f"{made} red {thing}", "alpha", "beta"), (f"{made} blue {thing}", "beta", "alpha")]
    return found


def pairs(path: Path) -> Path:
    rows = [{"prompt": asked, "chosen": right, "rejected": wrong} for asked, right, wrong in questions()]
    return _written(path, rows)


def thumbs(path: Path) -> Path:
    """Both answers of each question: the right one liked, the wrong one not."""
    rows = [
        {"prompt": asked, "completion": said, "label": said == right}
        for asked, right, wrong in questions()
        for said in (right, wrong)
    ]
    return _written(path, rows)


def asked(path: Path) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": right}]}
        for one, right, _ in questions()
    ]
    return _written(path, rows)


def likes_alpha(completions: list[Any], **_: Any) -> list[float]:
    """A reward: how many letters of an answer are an a."""
    texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
    return [text.count("a") / (len(text) or 1) for text in texts]


def longer(completions: list[Any], **_: Any) -> list[float]:
    """A reward in which hardly two answers are alike."""
    texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
    return [len(text) + text.count("e") / 2 for text in texts]


def fails_on_rank_1(completions: list[Any], **more: Any) -> list[float]:
    return [1 / (1 - int(os.environ["RANK"]))] * len(completions)


def preferring(task: str, base: Path, data: Path, state: StateConfig, **more: Any) -> FinetuneConfig:
    """A job of a few seconds on a CPU."""
    given: dict[str, Any] = {
        "task": task,
        "name": f"planted-{task}",
        "model": {"path": str(base)},
        "method": {"r": 8, "alpha": 16},
        "data": {"sources": [{"uri": str(data)}], "max_length": 48, "heldout_share": 0.25, "packing": "none"},
        "train": {
            "global_tokens_per_step": 768,
            "lr": 5e-3,
            "schedule": "constant",
            "budget": {"steps": 30},
        },
        "preference": {"beta": 0.3},
        "checkpoint": {"every_steps": 10},
        "state": state,
    }
    return FinetuneConfig.model_validate({**given, **more})


def _written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path
