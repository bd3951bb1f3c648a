"""Two ranks on this machine, by DDP, FSDP2, ZeRO-2 and ZeRO-3: one result, and exactly on after a rank was killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.support.training import config, prepared, ranks, run_of, weights

from llmops.finetune.config import FinetuneConfig
from llmops.finetune.engines.deepspeed import Zero
from llmops.finetune.engines.parallel import Fsdp2, Learner
from llmops.finetune.engines.supervised import SupervisedEngine
from llmops.finetune.journal import read_events, read_metrics
from llmops.finetune.runs import RunFolder

NOT_TAKEN = os.WEXITED | os.WNOHANG | os.WNOWAIT
TOLERANCE = 2e-4
"""Between one rank and two: gradients are summed in another order."""


def job(base: Path, folder: Path, strategy: str, method: str = "lora") -> FinetuneConfig:
    return config(
        base,
        folder,
        method={"kind": method, "r": 4, "alpha": 8},
        launch={"processes": 2},
        parallel={"strategy": strategy},
        train={"lr": 1e-3},
    )


def run(folder: RunFolder) -> None:
    for child in ranks(folder):
        _, status = os.waitpid(child, 0)
        logs = "".join(path.read_text() for path in folder.path.glob("rank-*.log"))
        assert os.waitstatus_to_exitcode(status) == 0, logs


def run_until_a_rank_dies(folder: RunFolder, step: int, *, saving: bool = False) -> None:
    """Rank 1 is killed when the step begins; the other writes down the one before, waits for it in vain, and is ended
    as a supervisor would.

    Args:
        saving: it is killed after that step instead, before its share of the checkpoint is written.
    """

    def before(rank: int) -> None:
        begin = Learner.begin
        now = [-1]

        def killed(self: Learner, number: int) -> None:
            now[0] = number
            if number == step and not saving:
                os.kill(os.getpid(), signal.SIGKILL)
            begin(self, number)

        def written(folder: Path) -> None:
            if now[0] == step and saving:
                os.kill(os.getpid(), signal.SIGKILL)

        if rank == 1:
            Learner.begin = killed  # type: ignore[method-assign]
            before_saving(written)

    first, second = ranks(folder, before=before)
    _, status = os.waitpid(second, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    until = time.monotonic() + 120
    while len(read_metrics(folder)) < step + saving and os.waitid(os.P_PID, first, NOT_TAKEN) is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)


def before_saving(call: Callable[[Path], None]) -> None:
    """Have every learner call it with the checkpoint's folder before it writes."""
    for kind in (Learner, Fsdp2, Zero):
        save = kind.save

        def saved(self: Learner, folder: Path, save: Callable[[Learner, Path], None] = save) -> None:
            call(folder)
            save(self, folder)

        kind.save = saved  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize(
    ("strategy", "method"),
    [("ddp", "lora"), ("fsdp2", "full"), ("fsdp2", "lora"), ("zero2", "full"), ("zero3", "full")],
)
def test_two_ranks_learn_what_one_does_and_resume_after_a_kill(
    base: Path, tmp_path: Path, strategy: str, method: str
) -> None:
    two = prepared(job(base, tmp_path, strategy, method))
    assert two.plan.ranks == 2
    assert two.plan.strategy == strategy
    whole, killed = run_of(two, "whole"), run_of(two, "killed")
    run(whole)
    shared = strategy in ("fsdp2", "zero2", "zero3")  # a file a rank: it dies before its own is there, too
    run_until_a_rank_dies(killed, step=5, saving=shared)
    assert [line["step"] for line in read_metrics(killed)][-1] == 5 + shared
    run(killed)
    assert [(one["kind"], one["step"]) for one in read_events(killed) if one["kind"] == "resumed"] == [("resumed", 4)]
    assert [line["loss"] for line in read_metrics(killed)] == [line["loss"] for line in read_metrics(whole)]
    assert weights(killed) == weights(whole)

    single = prepared(config(base, tmp_path, method={"kind": method, "r": 4, "alpha": 8}, train={"lr": 1e-3}))
    one = run_of(single, "one")
    SupervisedEngine().train(single, one, lambda event: None)
    (path,) = whole.model.glob("*.safetensors")
    found, wanted = load_file(path), load_file(one.model / path.name)
    assert found.keys() == wanted.keys()
    apart = max(float((found[name] - wanted[name]).abs().max()) for name in found)
    assert apart < TOLERANCE
