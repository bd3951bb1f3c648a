"""TRL's trainers for dpo, kto, reward, grpo, rloo and distill: our data, checkpoints and events, their mathematics.

Their habits that lose users days are overruled here: full DPO and KTO always get a reference of their own (TRL would
load one from wherever the model says it came from), data is tokenized once and by us, and checkpoints are `durable`'s.
Several ranks hold a copy each (DDP, by accelerate, which is looked at: it makes DDP of other strategies on CPUs without
a word, so planning refuses those); rank 0 keeps what all have, each rank its randomness.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmops.core.errors import GateFailedError, UserError
from llmops.finetune import models
from llmops.finetune.checkpoint import Checkpoint, Checkpoints, require_same_division
from llmops.finetune.engines import Listener, Prepared, Resumed, Saved, StepDone, Trained, Warned
from llmops.finetune.engines.memory import out_of_memory
from llmops.finetune.engines.others import Others
from llmops.finetune.engines.pairs import Laid
from llmops.finetune.engines.schedule import rate
from llmops.finetune.engines.signals import Signals
from llmops.finetune.preflight import Preflight
from llmops.finetune.preflight.preference_checks import first_loss_check
from llmops.finetune.quiet import quiet_transformers
from llmops.finetune.runs import RunFolder


class TrlEngine:
    """Trains dpo, kto, reward, grpo, rloo and distill.

    Args:
        pause: called at each stage of writing a checkpoint; a proof kills the process there.
    """

    def __init__(self, pause: Callable[[str], None] | None = None) -> None:
        self._pause = pause

    def train(self, job: Prepared, folder: RunFolder, listen: Listener) -> Trained:
        """See `engines.Engine`."""
        job.data.require()
        with Signals() as signals, out_of_memory(job), quiet_transformers():
            return _Training(job, folder, listen, signals, self._pause).run()


class _Training:
    """One attempt at a run."""

    def __init__(
        self, job: Prepared, folder: RunFolder, listen: Listener, signals: Signals, pause: Callable[[str], None] | None
    ) -> None:
        self.job, self.folder, self.listen, self.signals = job, folder, listen, signals
        self.config, self.plan = job.config, job.plan
        self.checkpoints = Checkpoints(folder.checkpoints, keep=self.config.checkpoint.keep, pause=pause)
        self.laid = Laid(job, examples_per_step(job))
        self.loss, self.tokens, self.supervised, self.seconds = math.nan, 0, 0, 0.0
        self.others, self.last = Others(job.plan.ranks), False
        self.started = self.saved_at = time.monotonic()

    def run(self) -> Trained:
        from llmops.finetune.engines.trainers import trainer_for

        found = self._newest()
        with tempfile.TemporaryDirectory() as scratch:
            trainer = trainer_for(self.job, self.laid, Path(scratch))
            self.others.require(trainer.accelerator)
            trainer.keep, trainer.rate = self._save, self._rate
            trainer.remove_callback(_printer())
            trainer.add_callback(_callback(self))
            step = 0 if found is None else found.step
            if step < self.plan.steps:
                self.started = time.perf_counter()
                trainer.train(resume_from_checkpoint=None if found is None else str(found.path))
                step = int(trainer.state.global_step)
            elif found is not None:
                trainer._load_from_checkpoint(str(found.path))
        if step < self.plan.steps:
            raise self.signals.stopped(step)
        if self.others.first:
            models.save_model(trainer.accelerator.unwrap_model(trainer.model), self.job.tokenizer, self.folder.model)
        self.others.wait()
        began = 0 if found is None else found.step
        return Trained(step, self.loss, self.tokens, self.supervised, self.seconds, resumed_from=began)

    def learned(self, state: Any, logs: dict[str, Any]) -> None:
        """A step is done: look at its loss, and tell of it.

        Raises:
            GateFailedError: it is no number; or the first of a preference task is not what it has to be.
        """
        step, now = int(state.global_step), time.perf_counter()
        seconds, self.started = now - self.started, now
        self.loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        ids = self.laid.ids(step - 1)
        if not (math.isfinite(self.loss) and math.isfinite(norm)):
            raise GateFailedError(
                f"the loss of step {step} is {self.loss}, the norm of its gradient {norm}",
                where=", ".join(ids[:8]),
                hint="look at these examples; lower train.lr, or train in fp32",
                code="loss_not_finite",
            )
        if step == 1:
            Preflight((first_loss_check(self.config, self.loss, self.plan.precision),)).require()
        tokens, supervised = self.laid.tokens(step - 1)
        self.tokens, self.supervised, self.seconds = (
            self.tokens + tokens,
            self.supervised + supervised,
            self.seconds + seconds,
        )
        known = {"loss", "grad_norm", "learning_rate", "epoch"}
        figures = {key: float(value) for key, value in logs.items() if key not in known and _number(value)}
        rate = float(logs.get("learning_rate", 0.0))
        told = StepDone(
            step, self.loss, rate, tokens, supervised, seconds, norm, figures=figures, examples=ids, epoch=None
        )
        self.listen(told)

    def after(self, step: int) -> tuple[bool, bool]:
        """Whether a checkpoint is due after a step, and whether to end there: all ranks agree."""
        every = self.config.checkpoint.every_steps
        late = time.monotonic() - self.saved_at >= self.config.checkpoint.every_s
        timed, asked = self.others.any(late and self.others.first, self.signals.asked is not None)
        self.last = asked or step >= self.plan.steps
        return self.last or (timed if every is None else step % every == 0), asked

    def _save(self, trainer: Any, step: int) -> None:
        began = time.perf_counter()
        self.saved_at = time.monotonic()
        state = {
            "division": self._division(), "tokens": self.tokens, "supervised": self.supervised,
            "identity": self.config.identity,
        }  # fmt: skip
        problem = self.others.saved(self.checkpoints, step, trainer, state)
        if problem is None:
            if self.others.first:
                made = Checkpoint(self.checkpoints.all()[-1], step, state)
                self.listen(Saved(step, time.perf_counter() - began, made.size_bytes))
            return
        self.listen(Warned(step, f"{problem.what}; training goes on, and the earlier checkpoints are intact"))
        if self.last:
            raise problem

    def _rate(self, step: int) -> float:
        return rate(self.config.train, step, self.plan.steps) / self.config.train.lr

    def _newest(self) -> Checkpoint | None:
        """The checkpoint to go on from; broken ones are moved out of the way."""
        found, rejected = self.checkpoints.newest_valid(self.config.identity)
        self.others.wait()
        if self.others.first:
            self.checkpoints.set_aside(rejected)
        if found is not None:
            exact = self.config.checkpoint.exact_resume == "require"
            for what in require_same_division(found.state["division"], self._division(), exact=exact):
                self.listen(Warned(found.step, f"resumed, but not exactly: {what}"))
            self.tokens, self.supervised = int(found.state["tokens"]), int(found.state["supervised"])
        if found is not None or rejected:
            self.listen(Resumed(0 if found is None else found.step, tuple(map(str, rejected))))
        return found

    def _division(self) -> dict[str, Any]:
        """What has to be the same for a step to be the same step."""
        plan = self.plan
        return {
            "data": self.job.data.digest,
            "steps": plan.steps,
            "ranks": plan.ranks,
            "rows_per_rank": plan.rows_per_rank,
            "accumulation": plan.accumulation,
        }


def examples_per_step(job: Prepared) -> int:
    """How many examples one update learns from; answers to one question are one example."""
    rows = job.plan.rows_per_step
    if job.config.task not in ("grpo", "rloo"):
        return rows
    generations = job.config.generation.generations
    if rows % generations:
        raise UserError(
            f"a step has {rows} rows, which are no whole groups of {generations} answers",
            hint=f"set train.global_tokens_per_step: {max(generations, rows - rows % generations) * job.plan.width}",
        )
    return rows // generations


def _callback(training: _Training) -> Any:
    from transformers import TrainerCallback

    class Told(TrainerCallback):  # type: ignore[misc]
        """Between the trainer and the run: events, checkpoints when they are due, an end when it is asked for."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_log = True
            control.should_save, asked = training.after(int(state.global_step))
            control.should_training_stop = control.should_training_stop or asked
            return control

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                training.learned(state, logs)

    return Told()


def _printer() -> Any:
    """What prints every step where there is no progress bar; events are told instead."""
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
