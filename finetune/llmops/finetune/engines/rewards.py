"""Reward functions of a job, by name: the user's own code, run in the training's process, as TRL calls it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from llmops.core.errors import NotFoundError
from llmops.finetune.config import FinetuneConfig


def rewards(config: FinetuneConfig) -> list[Callable[..., Any]]:
    """The functions that score answers: `module:function`, the user's own code, run in the training's process.

    Raises:
        NotFoundError: there is no such function.
    """
    found = []
    for name in config.generation.rewards:
        module, colon, function = name.partition(":")
        try:
            if not colon:
                raise ImportError("a reward is module:function")
            found.append(getattr(import_module(module), function))
        except (ImportError, AttributeError) as error:
            hint = "write package.module:function; it takes completions and gives a number each"
            raise NotFoundError(f"`{name}` is no reward: {error}", where="generation.rewards", hint=hint) from error
    return found
