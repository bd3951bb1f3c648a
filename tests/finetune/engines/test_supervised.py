"""The own loop: it is a bare PyTorch loop to the bit, goes on exactly, and ends with what to do."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.training import config, prepared, run_of, weights

from llmops.core.errors import ConflictError, GateFailedError, StorageError
from llmops.finetune import models
from llmops.finetune.data.packing import collate
from llmops.finetune.engines import Event, Prepared, Resumed, Saved, StepDone, Warned
from llmops.finetune.engines.memory import OutOfMemory, estimate, what_to_change
from llmops.finetune.engines.parallel import Learner, adamw
from llmops.finetune.engines.schedule import rate
from llmops.finetune.engines.signals import Stopped
from llmops.finetune.engines.supervised import SupervisedEngine, ready_model
from llmops.finetune.runs import RunFolder


@pytest.fixture
def job(base: Path, tmp_path: Path) -> Prepared:
    return prepared(config(base, tmp_path))


def train(job: Prepared, folder: RunFolder) -> list[Event]:
    heard: list[Event] = []
    SupervisedEngine().train(job, folder, heard.append)
    return heard


def steps(heard: list[Event]) -> list[StepDone]:
    return [one for one in heard if isinstance(one, StepDone)]


def test_it_learns_and_tells_each_step(job: Prepared) -> None:
    heard = steps(train(job, run_of(job)))
    assert [one.step for one in heard] == list(range(1, 9))
    assert heard[-1].loss < heard[0].loss - 0.2
    assert all(0 < one.supervised_tokens < one.tokens and one.examples for one in heard)


def test_its_weights_are_those_of_a_bare_loop(job: Prepared) -> None:
    """Full logits, a full mask and PyTorch's own mean: what is left out changes nothing but rounding."""
    folder = run_of(job)
    losses = [one.loss for one in steps(train(job, folder))]
    model = ready_model(job)
    model.set_attn_implementation("sdpa")
    learning = {name: one for name, one in model.named_parameters() if one.requires_grad}
    optimizer = adamw(list(learning.values()), job.config.train)
    feed, bare = job.data.feed(job.config, job.plan.rows_per_step), []
    for number in range(job.plan.steps):
        batch = collate(feed.take().rows, 0, job.plan.width)
        ids, labels = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.labels)
        logits = model(input_ids=ids, position_ids=torch.from_numpy(batch.position_ids), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(learning.values()), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(job.config.train, number, job.plan.steps)
        optimizer.step()
        optimizer.zero_grad()
        bare.append(loss.item())
    assert losses == pytest.approx(bare, abs=2e-5)
    trained = models.load_result(folder.model, job.base, job.config)
    for name, one in trained.named_parameters():
        if "lora" in name:
            torch.testing.assert_close(one, dict(model.named_parameters())[name], atol=2e-4, rtol=1e-3)


def test_a_resumed_run_ends_in_the_same_bits(job: Prepared) -> None:
    whole, cut = run_of(job, "whole"), run_of(job, "cut")
    expected = [one.loss for one in steps(train(job, whole))]

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        SupervisedEngine().train(job, cut, stop)
    heard = train(job, cut)
    assert heard[0] == Resumed(4)
    assert [one.loss for one in steps(heard)] == expected[4:]
    assert weights(cut) == weights(whole)


def test_it_falls_back_to_the_newest_whole_checkpoint_and_says_so(job: Prepared) -> None:
    whole, broken = run_of(job, "whole"), run_of(job, "broken")
    train(job, whole)
    train(job, broken)
    newest = max(broken.checkpoints.glob("step-*"))
    os.truncate(newest / "state.safetensors", 1000)
    (heard, *_) = train(job, broken)
    assert isinstance(heard, Resumed)
    assert heard.step == 6
    assert "step-00000008: state.safetensors has 1000 bytes" in heard.rejected[0]
    assert weights(broken) == weights(whole)


def test_without_any_whole_checkpoint_it_begins_anew_and_says_so(job: Prepared) -> None:
    folder = run_of(job)
    train(job, folder)
    before = weights(folder)
    for path in folder.checkpoints.glob("step-*"):
        (path / "state.safetensors").unlink()
    heard = train(job, folder)
    assert isinstance(heard[0], Warned)
    assert "no checkpoint is whole" in heard[0].text
    assert weights(folder) == before


def test_a_checkpoint_of_other_settings_is_not_gone_on_with(base: Path, job: Prepared, tmp_path: Path) -> None:
    """Same data, same division, another rate: put into the run's folder, it would pass for its own."""
    other, folder, undisturbed = run_of(job, "other"), run_of(job, "swapped"), run_of(job, "undisturbed")
    train(prepared(config(base, tmp_path, train={"lr": 1e-2})), other)
    shutil.copytree(max(other.checkpoints.glob("step-*")), folder.checkpoints / "step-00000008")
    (heard, *_) = train(job, folder)
    assert isinstance(heard, Warned)
    assert "it is of a run with other settings" in heard.text
    train(job, undisturbed)
    assert weights(folder) == weights(undisturbed)


def test_another_division_is_refused_or_told_of(base: Path, job: Prepared, tmp_path: Path) -> None:
    folder = run_of(job)
    plan = replace(job.plan, rows_per_rank=2, accumulation=1, steps=20)
    train(job, folder)
    with pytest.raises(ConflictError, match="rows_per_rank was 4, and is 2 now"):
        train(replace(job, plan=plan), folder)
    loose = prepared(config(base, tmp_path, checkpoint={"every_steps": 2, "exact_resume": "best_effort"}))
    heard = train(replace(loose, plan=plan), folder)
    assert "rows_per_rank was 4, and is 2 now" in "".join(one.text for one in heard if isinstance(one, Warned))
    assert steps(heard)[0].step == 9


def test_a_signal_saves_and_ends(job: Prepared) -> None:
    folder = run_of(job)

    def asked(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match=r"SIGTERM.*after step 3"):
        SupervisedEngine().train(job, folder, asked)
    assert train(job, folder)[0] == Resumed(3)


def test_a_loss_that_is_no_number_names_step_and_examples(job: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = Learner.learn

    def poisoned(self: Any, batch: Any, supervised: int, *, last: bool) -> torch.Tensor:
        return learn(self, batch, supervised, last=last) * (float("nan") if self.poison else 1.0)

    def begin(self: Any, step: int) -> None:
        self.poison = step == 4

    monkeypatch.setattr(Learner, "learn", poisoned)
    monkeypatch.setattr(Learner, "begin", begin)
    folder = run_of(job)
    with pytest.raises(GateFailedError, match=r"no number.*step 5") as caught:
        train(job, folder)
    first = job.data.feed(job.config, job.plan.rows_per_step).step(4).ids[0]  # type: ignore[attr-defined]
    assert first[:16] in str(caught.value.where)
    assert (folder.checkpoints / "step-00000004").is_dir()


def test_weights_that_run_away_end_the_run(base: Path, tmp_path: Path) -> None:
    """Nothing is put in place of the loss: the rate alone drives it beyond all numbers."""
    wild = prepared(config(base, tmp_path, method={"kind": "full"}, train={"lr": 1e30, "clip_norm": 1e30}))
    with pytest.raises(GateFailedError, match="no number any more") as caught:
        train(wild, run_of(wild))
    assert caught.value.exit_code == 3
    assert "lower train.lr" in str(caught.value.hint)


def test_what_to_change_is_the_first_of_what_helps(job: Prepared) -> None:
    """Following each hint makes the estimate smaller, until nothing is left but shorter rows."""
    settings, plan = job.config, replace(job.plan, rows_per_rank=2)
    full = settings.model_copy(update={"method": settings.method.model_copy(update={"kind": "full"})})
    steps = [
        (full, plan, "train.rows_per_device: 1 (it was 2)"),
        (full, plan := replace(plan, rows_per_rank=1), "train.gradient_checkpointing: on"),
        (full, plan := replace(plan, gradient_checkpointing=True), "method.kind: lora"),
        (settings, plan, "data.max_length: 48 (it is 96)"),
        (settings, replace(plan, width=48), "data.max_length: 24"),
    ]
    needed = []
    for asked, planned, hint in steps:
        assert hint in what_to_change(asked, planned)
        needed.append(estimate(job.base.shape, asked, planned).total)
    assert needed == sorted(needed, reverse=True)
    assert len(set(needed)) == len(needed)


def test_out_of_memory_says_what_to_change_by_how_much(job: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, *_: Any, **__: Any) -> torch.Tensor:
        return torch.empty(1 << 50)

    monkeypatch.setattr(Learner, "learn", full)
    with pytest.raises(OutOfMemory, match="does not fit in memory") as caught:
        train(job, run_of(job))
    assert "train.rows_per_device: 2 (it was 4)" in str(caught.value.hint)


def test_a_full_disk_is_told_of_then_ends_the_run(job: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    folder = run_of(job)
    heard: list[Event] = []
    SupervisedEngine().train(job, folder, heard.append)
    kept = [path.name for path in folder.checkpoints.glob("step-*")]
    longer = Prepared(job.config, job.base, job.tokenizer, job.data, job.plan)
    monkeypatch.setattr(Learner, "save", full)
    fresh = run_of(longer, "full")
    with pytest.raises(StorageError, match="No space left"):
        SupervisedEngine().train(longer, fresh, heard.append)
    told = [one.text for one in heard if isinstance(one, Warned)]
    assert len(told) == 2
    assert "training goes on" in told[0]
    assert not list(fresh.checkpoints.iterdir())
    assert [path.name for path in folder.checkpoints.glob("step-*")] == kept
    assert any(isinstance(one, Saved) for one in heard)
