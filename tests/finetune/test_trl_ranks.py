"""TRL's tasks on two ranks: each goes on to the same bits after one was killed, and learns what one rank does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support import preferences, training
from tests.support.tiny_lm import tiny_base

from llmops.core.identity import LOCAL
from llmops.core.state import StateConfig
from llmops.finetune import jobs, train
from llmops.finetune.config import GENERATING, PREFERRING, FinetuneConfig
from llmops.finetune.engines import StepDone, others
from llmops.finetune.engines.trl import TrlEngine
from llmops.finetune.journal import read_events, read_metrics
from llmops.finetune.runs import RunFolder, open_run

TASKS = (*PREFERRING, *GENERATING)
REWARD = "tests.support.preferences:longer"
TOLERANCE = 1e-4
"""Between one rank and two, many rows at once and few: gradients are summed in another order."""

Job = Callable[..., FinetuneConfig]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """And TRL in memory before anything forks."""
    from llmops.finetune.engines import trainers

    assert trainers
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    place = tmp_path_factory.mktemp("ranks")
    base, teacher = tiny_base(place / "base"), tiny_base(place / "teacher", seed=5)
    pairs, asked = preferences.pairs(place / "pairs.jsonl"), preferences.asked(place / "asked.jsonl")
    data = {"dpo": pairs, "reward": pairs, "kto": preferences.thumbs(place / "thumbs.jsonl")}

    def made(task: str, *, rows: int, processes: int = 2, **more: Any) -> FinetuneConfig:
        own = {"teacher": str(teacher)} if task == "distill" else {"rewards": [more.pop("reward", REWARD)]}
        return preferences.preferring(
            task, base, data.get(task, asked), StateConfig(dir=place / "state"),
            train={"global_tokens_per_step": 768, "rows_per_device": rows, "lr": 2e-3, "budget": {"steps": 4}},
            checkpoint={"every_steps": 2}, launch={"processes": processes, "restarts": 0},
            generation={**own, "generations": 4, "max_new_tokens": 6}, **more,
        )  # fmt: skip

    return made


def written(config: FinetuneConfig, folder: Path) -> RunFolder:
    run = open_run(StateConfig(dir=folder), name=config.name, task=config.task, identity="0" * 64)
    jobs.write(train.ready(config, principal=LOCAL, listen=lambda event: None), run)
    return run


def ended(ranks: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]


def said(folder: RunFolder) -> str:
    return "".join(path.read_text() for path in folder.path.glob("rank-*.log"))


@pytest.mark.kill
@pytest.mark.parametrize("task", TASKS)
def test_two_ranks_go_on_to_the_same_bits_after_one_was_killed(job: Job, tmp_path: Path, task: str) -> None:
    """Rank 1 is killed while it writes its part of the second checkpoint; answers are sampled by both."""
    config = job(task, rows=2)
    whole, broken = written(config, tmp_path / "whole"), written(config, tmp_path / "broken")
    assert jobs.read(whole).plan.strategy == "ddp"

    def killed(rank: int) -> None:
        write, calls = others.write_randomness, iter(range(9))

        def half(into: Path, rank: int) -> None:
            if next(calls) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            write(into, rank)

        if rank == 1:
            others.write_randomness = half

    undisturbed = training.ranks(whole)
    assert ended(training.ranks(broken, before=killed)) == [2, -signal.SIGKILL], said(broken)  # 2: may be started again
    assert ended([*undisturbed, *training.ranks(broken)]) == [0] * 4, said(broken) + said(whole)
    assert [one["step"] for one in read_events(broken) if one["kind"] == "resumed"] == [2]
    assert training.weights(broken) == training.weights(whole)
    assert [line["loss"] for line in read_metrics(broken)] == [line["loss"] for line in read_metrics(whole)]
    if task in PREFERRING:
        require_alike(whole, at_once(job, task, tmp_path))


@pytest.mark.parametrize("task", GENERATING)
def test_two_ranks_row_by_row_learn_what_one_does_at_once(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """Answers are those of a question and its place, whichever rank gives them."""
    answer_by_place(monkeypatch)
    one = at_once(job, task, tmp_path)
    two = written(job(task, rows=2), tmp_path / "two")
    assert ended(training.ranks(two)) == [0, 0], said(two)
    require_alike(two, one)


def at_once(job: Job, task: str, tmp_path: Path) -> tuple[RunFolder, list[StepDone]]:
    """One rank that computes a step's rows all together."""
    one = written(job(task, rows=16, processes=1), tmp_path / "one")
    assert jobs.read(one).plan.accumulation == 1
    heard: list[Any] = []
    TrlEngine().train(jobs.read(one), one, heard.append)
    return one, [event for event in heard if isinstance(event, StepDone)]


def require_alike(two: RunFolder, single: tuple[RunFolder, list[StepDone]]) -> None:
    """A step's gradient is of its rows, however they are divided: in all steps, and in what comes of them."""
    plan = jobs.read(two).plan
    assert (plan.ranks, plan.rows_per_rank, plan.accumulation) == (2, 2, 4)
    (one, steps), lines = single, read_metrics(two)
    assert [line["loss"] for line in lines] == pytest.approx([step.loss for step in steps], abs=TOLERANCE)
    assert [line["grad_norm"] for line in lines] == pytest.approx([step.grad_norm for step in steps], rel=1e-3)
    assert all(step.grad_norm for step in steps)
    found, wanted = (load_file(run.model / "adapter_model.safetensors") for run in (two, one))
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) < TOLERANCE
    assert any(float(value.abs().max()) > 1e-3 for name, value in wanted.items() if "lora_B" in name)


def test_a_reward_that_fails_on_one_rank_ends_all_with_its_name(job: Job, tmp_path: Path) -> None:
    folder = written(job("grpo", rows=8, reward="tests.support.preferences:fails_on_rank_1"), tmp_path)
    first, second = training.ranks(folder)
    assert ended([second]) == [1], said(folder)  # a user's error: no restart would mend it
    os.kill(first, signal.SIGKILL)  # as its supervisor does; it waits for the other's rewards
    ended([first])
    assert "the reward `tests.support.preferences:fails_on_rank_1` cannot score" in said(folder)
    assert "ZeroDivisionError" in said(folder)


def answer_by_place(patch: pytest.MonkeyPatch) -> None:
    """In place of sampling, in which each rank has a randomness of its own."""
    from llmops.finetune.engines import trainers

    def answers(trainer: Any, asked: list[list[int]]) -> list[list[int]]:
        first = trainer.accelerator.process_index * len(asked)
        made = []
        for place, ids in enumerate(asked, start=first):
            chance = torch.Generator().manual_seed(sum(ids) * 31 + place % 4)
            length = int(torch.randint(1, 7, (1,), generator=chance))
            made.append(torch.randint(5, 250, (length,), generator=chance).tolist())
        return made

    patch.setattr(
        trainers.GrpoTrainer, "_generate_single_turn", lambda self, asked, *_, **__: (answers(self, asked), None)
    )
    for kind in (trainers.RlooTrainer, trainers.DistillTrainer):
        patch.setattr(kind, "_generate_single_turn", lambda self, asked, *_, **__: answers(self, asked))
