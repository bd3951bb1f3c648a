"""What only some tasks can get wrong: groups of answers, rewards, a teacher; looked at before anything is trained.

The first loss, which proves the reference, is looked at in the first step: `preference_checks` says what it has to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmops.core.errors import LlmopsError, UserError
from llmops.finetune import models
from llmops.finetune.config import ModelConfig
from llmops.finetune.engines import Prepared
from llmops.finetune.preflight import Check

_ASKED = 8


def task_checks(job: Prepared) -> Iterator[Check]:
    task = job.config.task
    if task in ("kto", "grpo", "rloo"):
        yield rows_together(job)
    if task in ("grpo", "rloo"):
        yield rewards(job)
    if task == "distill":
        yield teacher(job)


def rows_together(job: Prepared) -> Check:
    """KTO compares answers computed together, GRPO and RLOO whole groups of answers to one question."""
    from llmops.finetune.engines.trl import examples_per_step

    name, plan = "preference.groups", job.plan
    if job.config.task == "kto":
        if plan.rows_per_rank > 1:
            return Check(name, "pass", f"{plan.rows_per_rank} answers are compared with each other")
        hint = "set train.rows_per_device: 4 and train.global_tokens_per_step to at least 4 times data.max_length"
        return Check(name, "fail", "kto compares answers computed together, and one is computed at once", hint)
    try:
        count = examples_per_step(job)
    except UserError as error:
        return Check(name, "fail", error.what, str(error.hint))
    return Check(name, "pass", f"{count} questions a step, {job.config.generation.generations} answers each")


def rewards(job: Prepared) -> Check:
    """Whether rewards are there, and say a number of each answer: asked of the rows' own answers.

    They are a person's own code, so whatever they raise is told.
    """
    from llmops.finetune.engines.rewards import rewards as found_rewards

    name = "preference.rewards"
    try:
        functions = found_rewards(job.config)
    except LlmopsError as error:
        return Check(name, "fail", error.what, str(error.hint or "correct generation.rewards"))
    asked = _asked(job)
    told = []
    for word, function in zip(job.config.generation.rewards, functions, strict=True):
        try:
            said = _said(function, asked)
        except Exception as error:  # noqa: BLE001 - the boundary to a person's own code
            what = f"the reward `{word}` cannot score the rows' own answers: {type(error).__name__}: {error}"
            return Check(name, "fail", what, "it takes prompts, completions, answer and **more, and gives a list")
        if said is None:
            what = f"the reward `{word}` gives no finite number for each of {len(asked)} answers"
            return Check(name, "fail", what, "give one number for each completion, in their order")
        told.append(said)
    alike = [
        word for word, said in zip(job.config.generation.rewards, told, strict=True) if len(set(said)) == 1 < len(said)
    ]
    if len(alike) == len(told):
        what = (
            f"`{alike[0]}` gives {told[0][0]:g} to each of {len(asked)} answers: nothing is learned from equal rewards"
        )
        return Check(name, "warn", what, "look at what it compares; it may not see the answer")
    spread = f"{min(map(min, told)):g} to {max(map(max, told)):g}"
    return Check(name, "pass", f"the rows' own answers are given {spread}", figures={"asked": len(asked)})


def teacher(job: Prepared) -> Check:
    """The teacher says for each token of ours how likely it is: both have to mean the same by it."""
    name, word = "preference.teacher", job.config.generation.teacher
    wanted = job.config.model_copy(update={"model": ModelConfig(path=word)})
    try:
        found = models.find_base(wanted.model, job.config.state)
        other = models.load_tokenizer(wanted, found)
    except LlmopsError as error:
        return Check(
            name, "fail", f"the teacher `{word}`: {error.what}", str(error.hint or "correct generation.teacher")
        )
    ours, theirs = job.tokenizer.get_vocab(), other.get_vocab()
    differ = [token for token, place in ours.items() if theirs.get(token) != place]
    if differ:
        what = f"the teacher's tokenizer is another: {len(differ)} of {len(ours)} tokens have other ids there"
        hint = "take a teacher of the same family, or distill from its answers: task sft over rows that it wrote"
        return Check(name, "fail", what, hint, {"different": len(differ)})
    return Check(name, "pass", f"teacher and student mean the same by all {len(ours)} tokens")


def _asked(job: Prepared) -> list[tuple[Any, Any, str]]:
    """Prompt, answer as the trainer gives them, and the row's answer; of a few rows."""
    from llmops.finetune.engines.pairs import Laid, question

    laid = Laid(job, 1)
    rows = [question(laid, place) for place in range(min(_ASKED, len(job.data.examples)))]
    return [(row["prompt"], _completion(row), row["answer"]) for row in rows]


def _completion(row: dict[str, Any]) -> Any:
    plain = isinstance(row["prompt"], str)
    return row["answer"] if plain else [{"role": "assistant", "content": row["answer"]}]


def _said(function: Callable[..., Any], asked: Sequence[tuple[Any, Any, str]]) -> list[float] | None:
    prompts, completions, answers = (list(column) for column in zip(*asked, strict=True))
    ids = [[0]] * len(asked)
    said = function(prompts=prompts, completions=completions, answer=answers, completion_ids=ids)
    numbers = [float(one) for one in said if one is not None]
    return numbers if len(numbers) == len(asked) and all(map(math.isfinite, numbers)) else None
