"""The loop of sft, cpt and pretrain: packed batches, one update after the other, and exactly on after any interruption.

The story of a step is `_Training._step`. What it learns from is a function of its number, its randomness too, so a
resumed run does what the undisturbed one would have done, bit for bit. How ranks share weights is `parallel`'s.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from llmops.core.errors import GateFailedError, StorageError, UserError
from llmops.finetune import models
from llmops.finetune.checkpoint import Checkpoint, Checkpoints, require_same_division
from llmops.finetune.data.order import Step
from llmops.finetune.data.packing import collate
from llmops.finetune.engines import (
    Evaluated,
    Listener,
    Plan,
    Prepared,
    Resumed,
    Saved,
    StepDone,
    Trained,
    Warned,
    attention,
)
from llmops.finetune.engines.loss import Tensors, tensors
from llmops.finetune.engines.memory import OutOfMemory, out_of_memory
from llmops.finetune.engines.parallel import learner
from llmops.finetune.engines.schedule import rate
from llmops.finetune.engines.signals import Signals
from llmops.finetune.runs import RunFolder

_FAILED_SAVES = 3
"""Checkpoints in a row that may fail before the run ends: what could be lost grows with each."""


class SupervisedEngine:
    """Trains sft, cpt and pretrain.

    Args:
        pause: called at each stage of writing a checkpoint; a proof kills the process there.
    """

    def __init__(self, pause: Callable[[str], None] | None = None) -> None:
        self._pause = pause

    def train(self, job: Prepared, folder: RunFolder, listen: Listener) -> Trained:
        """See `engines.Engine`."""
        with Signals() as signals, out_of_memory(job):
            return _Training(job, folder, listen, signals, self._pause).run()


@dataclass
class _Given:
    """A step's batches of this rank, made before they are needed."""

    step: Step
    position: dict[str, Any]
    batches: list[Tensors]
    tokens: int
    supervised: int


class _Training:
    def __init__(
        self, job: Prepared, folder: RunFolder, listen: Listener, signals: Signals, pause: Callable[[str], None] | None
    ) -> None:
        self.job, self.folder, self.listen, self.signals = job, folder, listen, signals
        self.config, self.plan = job.config, job.plan
        self.checkpoints = Checkpoints(folder.checkpoints, keep=self.config.checkpoint.keep, pause=pause)
        self.feed = job.data.feed(self.config, self.plan.rows_per_step)
        self.learner = learner(ready_model(job), self.config.train, self.plan)
        self.rank, self.done, self.failed_saves = self.learner.rank, 0, 0
        self.tokens = self.supervised = 0
        self.seconds, self.loss, self.saved_at = 0.0, math.nan, time.monotonic()

    def run(self) -> Trained:
        resumed = self._resume()
        given = self._take() if self.done < self.plan.steps else None
        while given is not None:
            given = self._step(given)
        self._save_result()
        return Trained(self.done, self.loss, self.tokens, self.supervised, self.seconds, resumed_from=resumed)

    def _step(self, given: _Given) -> _Given | None:
        """One update; gives the next step's batches, which are made while a device still computes this one's."""
        started = time.perf_counter()
        learner, number = self.learner, self.done
        learner.begin(number)
        now = rate(self.config.train, number, self.plan.steps)
        losses = [
            learner.learn(batch, given.supervised, last=place == self.plan.accumulation - 1)
            for place, batch in enumerate(given.batches)
        ]
        norm = learner.update(now)
        following = self._take() if number + 1 < self.plan.steps else None
        told = learner.total(torch.stack([torch.stack(losses).sum(), *self._wishes(losses[0])]))
        self.loss, late, asked = told.tolist()
        grad_norm = float(norm)
        if not math.isfinite(self.loss) or not math.isfinite(grad_norm):
            raise _no_number(self.loss, grad_norm, given.step)
        self.done += 1
        seconds = time.perf_counter() - started
        self.seconds, self.tokens = self.seconds + seconds, self.tokens + given.tokens
        self.supervised += given.supervised
        if self.rank == 0:
            self.listen(
                StepDone(
                    self.done, self.loss, now, given.tokens, given.supervised, seconds, grad_norm,
                    _peak_memory(self.plan), given.step.epoch, examples=tuple(given.step.ids),
                )
            )  # fmt: skip
        alone = self.plan.ranks == 1  # who has nobody to agree with need not do another step first
        self._between(following, late=late > 0, asked=asked > 0 or (alone and self.signals.asked is not None))
        return following

    def _between(self, following: _Given | None, *, late: bool, asked: bool) -> None:
        """What is due after a step: evaluation, a checkpoint, an end that somebody asked for."""
        every = self.config.eval.every_steps
        if every and self.done % every == 0 and following is not None:
            self._evaluate()
        steps = self.config.checkpoint.every_steps
        due = self.done % steps == 0 if steps else late
        if due or asked or following is None:
            self._save(following)
        if asked and following is not None:
            raise self.signals.stopped(self.done)

    def _wishes(self, like: torch.Tensor) -> list[torch.Tensor]:
        """Whether this rank wants a checkpoint after this step, and whether it was asked to end; 1 if so. Ranks agree
        by adding up, with the loss: one that is asked ends all, after the same step."""
        timed = self.config.checkpoint.every_steps is None
        late = timed and self.rank == 0 and time.monotonic() - self.saved_at >= self.config.checkpoint.every_s
        return [like.new_tensor(float(late)), like.new_tensor(float(self.signals.asked is not None))]

    def _take(self) -> _Given:
        position = self.feed.position()
        step = self.feed.take()
        own = self.plan.accumulation * self.plan.rows_per_rank
        rows = step.rows[self.rank * own : (self.rank + 1) * own]
        width = self.plan.width if self.config.data.packing == "bfd" else None
        at_once = self.plan.rows_per_rank
        made = [collate(rows[start : start + at_once], self.pad, width) for start in range(0, own, at_once)]
        documents = [one for row in step.rows for one in row]
        return _Given(
            step,
            position,
            [tensors(batch, self.plan.device) for batch in made],
            sum(len(one.ids) for one in documents),
            max(1, sum(int(one.supervised[1:].sum()) for one in documents)),
        )

    @property
    def pad(self) -> int:
        tokenizer = self.job.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)

    def _resume(self) -> int:
        """Go on from the newest whole checkpoint; gives its step, 0 where there is none."""
        found, rejected = self.checkpoints.newest_valid(self.config.identity)
        if found is None:
            if rejected and self.rank == 0:
                self.checkpoints.set_aside(rejected)
                self.listen(Warned(0, f"no checkpoint is whole, training begins anew: {'; '.join(map(str, rejected))}"))
            self.learner.wait()
            return 0
        for differs in require_same_division(
            found.state["division"], self._division(), exact=self.config.checkpoint.exact_resume == "require"
        ):
            self._warn(f"resumed, but not exactly: {differs}")
        self.learner.load(found.path)
        self.feed.go_to(self._position(found))
        self.done, self.loss = found.step, float(found.state["loss"])
        self.tokens, self.supervised = int(found.state["tokens"]), int(found.state["supervised_tokens"])
        self.learner.wait()
        if self.rank == 0:
            self.checkpoints.set_aside(rejected)
            self.listen(Resumed(found.step, tuple(map(str, rejected))))
        return found.step

    def _position(self, found: Checkpoint) -> dict[str, Any]:
        """Where the data goes on; counted anew where a step has another number of rows now."""
        position = dict(found.state["position"])
        before = position.get("rows_per_step", self.plan.rows_per_step)
        if before != self.plan.rows_per_step and "step" in position:
            rows = int(position["step"]) * int(before)
            position |= {"rows_per_step": self.plan.rows_per_step, "step": rows // self.plan.rows_per_step}
        return position

    def _division(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "steps": plan.steps, "ranks": plan.ranks, "rows_per_rank": plan.rows_per_rank,
            "accumulation": plan.accumulation, "width": plan.width, "strategy": plan.strategy,
            "device": plan.device, "precision": plan.precision, "threads": torch.get_num_threads(),
            "torch": torch.__version__.partition("+")[0], "attention": self.learner.inner().config._attn_implementation,
        }  # fmt: skip

    def _save(self, following: _Given | None) -> None:
        """Make a checkpoint; one that fails is told, and training goes on while that is defensible."""
        started = time.perf_counter()
        self.saved_at = time.monotonic()
        state = {
            "division": self._division(),
            "position": following.position if following else self.feed.position(),
            "loss": self.loss, "tokens": self.tokens, "supervised_tokens": self.supervised,
            "identity": self.config.identity, "data": self.job.data.digest,
        }  # fmt: skip
        problem = self._write(state)
        if problem is None:
            self.failed_saves = 0
            if self.rank == 0:
                size = Checkpoint(self.checkpoints.all()[-1], self.done, state).size_bytes
                self.listen(Saved(self.done, time.perf_counter() - started, size))
            return
        self.failed_saves += 1
        if self.failed_saves >= _FAILED_SAVES or following is None:
            raise problem
        newest = self.checkpoints.all()
        held = f"{newest[-1].name} is the newest" if newest else "there is none yet"
        self._warn(f"{problem.what}; training goes on, {held}: {problem.hint}")

    def _write(self, state: dict[str, Any]) -> StorageError | None:
        """All ranks write, the first seals; what went wrong anywhere, everywhere."""
        problem: StorageError | None = None
        aside = self.checkpoints.aside(self.done)
        if self.rank == 0:
            problem = _tried(lambda: self.checkpoints.begin(self.done))
        self.learner.wait()
        if problem is None and (self.learner.writes or self.rank == 0):
            problem = _tried(lambda: self.learner.save(aside))
        broken = self.learner.total(torch.tensor([0.0 if problem is None else 1.0], device=self.plan.device))
        if float(broken) > 0:
            if self.rank == 0:
                self.checkpoints.abandon(self.done)
            return problem or StorageError("another rank could not save its share of the checkpoint")
        if self.rank == 0:
            problem = _tried(lambda: self.checkpoints.finish(self.done, state))
        self.learner.wait()
        return problem

    def _save_result(self) -> None:
        weights = self.learner.weights()
        if self.rank == 0:
            try:
                models.save_model(self.learner.inner(), self.job.tokenizer, self.folder.model, weights)
            except OSError as error:
                raise StorageError(
                    f"the result cannot be saved: {error.strerror or error}",
                    where=str(self.folder.model),
                    hint=f"free space, then `llmops finetune resume {self.folder.run_id}`: the training is not lost",
                ) from error
        self.learner.wait()

    def _evaluate(self) -> None:
        from llmops.finetune.evaluate import measure

        found = measure(self.learner.inner(), self.job.tokenizer, self.job.data, self.config, generate=False)
        self.learner.inner().train()
        if self.rank == 0:
            self.listen(Evaluated(self.done, found.means()))

    def _warn(self, text: str) -> None:
        if self.rank == 0:
            self.listen(Warned(self.done, text))


def ready_model(job: Prepared) -> Any:
    """The base in memory with what is to learn, as the plan wants it."""
    config, plan = job.config, job.plan
    if config.train.deterministic:
        torch.use_deterministic_algorithms(True)
    # FSDP shares out a layer's weights in one piece, so they have to be of one type
    precision = "fp32" if plan.strategy in ("fsdp2", "zero2", "zero3") else plan.precision
    model = models.load_model(job.base, config, tokenizer=job.tokenizer, precision=precision)
    name = attention.chosen(model, config, plan)
    if name is not None:
        attention.set_on(model, name)
    model = models.adapt(model, config.method, config.train.seed)
    if plan.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model


def _tried(write: Callable[[], Any]) -> StorageError | None:
    """What the disk said to it."""
    try:
        write()
    except StorageError as error:
        return error
    except OSError as error:
        return StorageError(f"the checkpoint cannot be saved: {error.strerror or error}", hint="free space on the disk")
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # what safetensors makes of a full disk
            raise
        return StorageError(f"the checkpoint cannot be saved: {error}", hint="free space on the disk")
    return None


def _no_number(loss: float, norm: float, step: Step) -> GateFailedError:
    ids = step.ids
    shown = ", ".join(one[:16] for one in ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    return GateFailedError(
        f"the loss is no number any more: {loss:g} with a gradient of norm {norm:g} in step {step.number + 1}",
        where=f"examples {shown}",
        hint="look at these examples in the ledger; lower train.lr, or raise train.warmup_share; checkpoints from "
        "before are whole",
        code="loss_not_finite",
    )


def _peak_memory(plan: Plan) -> int:
    if plan.device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


__all__ = ["OutOfMemory", "SupervisedEngine", "UserError", "ready_model"]
