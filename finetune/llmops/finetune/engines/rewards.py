"""Reward functions of a job, by name: the user's own code, run in the training's process, or a registered reward model.

A function takes `prompts`, `completions` and `answer` (the row's own) as lists, and whatever else TRL names; it gives
a number for each. Prompts and completions are texts, or lists of turns where the data are conversations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from llmops.core.errors import LlmopsError, NotFoundError, UserError
from llmops.finetune.artefact import OPENER, Pinned
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.named import named

_REGISTERED = re.compile(r"[^:\s]+(@[a-z][a-z0-9_-]*|/[1-9][0-9]*)")


def rewards(config: FinetuneConfig) -> list[Callable[..., Any]]:
    """The functions that score answers.

    Raises:
        NotFoundError: there is no such function or version.
        UserError: the version is no reward model.
    """
    return [_registered(name, config) if _REGISTERED.fullmatch(name) else _own(name) for name in
            config.generation.rewards]  # fmt: skip


def guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A reward whose failure ends the training as a user's error that names it, on all ranks, and is not tried again.

    What it says is held to a finite number for each answer; None leaves an answer out.
    """

    def reward(completions: Sequence[Any], **more: Any) -> list[float | None]:
        try:
            told = [None if one is None else float(one) for one in function(completions=completions, **more)]
        except LlmopsError:
            raise
        except Exception as error:  # the boundary to a person's own code
            raise _unscored(name, f"{type(error).__name__}: {error}") from error
        if len(told) != len(completions):
            raise _unscored(name, f"it gives {len(told)} numbers for {len(completions)} answers")
        if not all(one is None or math.isfinite(one) for one in told):
            raise _unscored(name, "it gives a number that is none, or has no end")
        return told

    reward.__name__ = re.sub(r"\W", "_", name)
    return reward


def _unscored(name: str, why: str) -> UserError:
    return UserError(
        f"the reward `{name}` cannot score what the model said: {why}",
        where="generation.rewards",
        hint="it gets prompts, completions, answer and **more, empty answers too, and gives one number for each; "
        "`llmops finetune resume RUN` goes on from the newest checkpoint",
        code="reward_failed",
    )


def _own(name: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = named(name)
    except (ImportError, AttributeError) as error:
        hint = (
            "write module:function, of the working folder or installed, which gives a number for each completion; "
            "or a registered version, docs.taste@champion"
        )
        raise NotFoundError(f"`{name}` is no reward: {error}", where="generation.rewards", hint=hint) from error
    return found


def _registered(name: str, config: FinetuneConfig) -> Callable[..., Any]:
    """A reward model of the registry, its files verified."""
    from llmops.finetune import servable
    from llmops.registry import Registry
    from llmops.registry.load import describe, opener_of

    with Registry(config.state) as registry:
        folder = registry.files(name)
    described = describe(folder)
    pinned = None
    if opener_of(described) == OPENER:
        pinned = Pinned.of(dict(described["flavors"]["python_function"]["config"]))
    if pinned is None or pinned.task != "reward":
        raise UserError(f"`{name}` is no reward model", where="generation.rewards", hint="train one with task: reward")
    opened = servable.read(folder, pinned, config.state)

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        turns = [_turns(asked, said) for asked, said in zip(prompts, completions, strict=True)]
        return [servable.score(opened, one) for one in turns]

    reward.__name__ = re.sub(r"\W", "_", name)
    return reward


def _turns(asked: Any, said: Any) -> list[Any]:
    before = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
    return [*before, *([{"role": "assistant", "content": said}] if isinstance(said, str) else said)]
