"""The trainer of each task, put together from a job: model, reference, rows, arguments. Alone imports TRL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset as Rows

from llmops.core.errors import UserError
from llmops.finetune import models
from llmops.finetune.config import ModelConfig
from llmops.finetune.engines import Prepared
from llmops.finetune.engines.durable import Durable, InOrder
from llmops.finetune.engines.pairs import Laid, mismatched, preference, question, thumb, whole_preference
from llmops.finetune.engines.rewards import guarded, rewards


class DpoTrainer(InOrder, trl.DPOTrainer):  # type: ignore[misc]
    """DPO over our rows."""


class KtoTrainer(InOrder, trl.KTOTrainer):  # type: ignore[misc]
    """KTO over our rows.

    TRL takes the distance to the reference from the rows that are computed at once, so that the result would depend on
    how many fit in memory. Here it is that of the whole step, on all ranks, however the step is divided.
    """

    _step_batches: list[Any]
    _step_logps: list[Any]
    _asked: int

    def get_batch_samples(self, *given: Any) -> Any:
        found = super().get_batch_samples(*given)
        self._step_batches, self._step_logps, self._asked = found[0], [], 0
        return found

    def _compute_kl_logps(self, model: Any, batch: Any) -> Any:
        """Asked for each batch by the learning model, then by the reference: of the step's rows, computed once each."""
        role, self._asked = self._asked % 2, self._asked + 1
        if role == len(self._step_logps):
            whole = [super(KtoTrainer, self)._compute_kl_logps(model, one) for one in self._step_batches]
            self._step_logps.append(torch.cat(whole))
        return self._step_logps[role]


class RewardTrainer(InOrder, trl.RewardTrainer):  # type: ignore[misc]
    """A reward model over our rows."""


class GrpoTrainer(Durable, trl.GRPOTrainer):  # type: ignore[misc]
    """GRPO over our questions."""


class RlooTrainer(Durable, trl.RLOOTrainer):  # type: ignore[misc]
    """RLOO over our questions."""


class DistillTrainer(Durable, trl.DistillationTrainer):  # type: ignore[misc]
    """On-policy distillation over our questions."""


def trainer_for(job: Prepared, laid: Laid, scratch: Path) -> Any:
    """The trainer of a job's task, ready to train.

    Args:
        scratch: a folder that the trainer may write to; nothing in it is kept.
    """
    return _MAKERS[job.config.task](job, laid, scratch)


def _dpo(job: Prepared, laid: Laid, scratch: Path) -> Any:
    wanted = job.config.preference
    arguments = trl.DPOConfig(**_common(job, scratch), beta=wanted.beta, loss_type=[wanted.loss], max_length=None)
    return DpoTrainer(args=arguments, train_dataset=_rows(laid.all(preference)), **_learner(job), **_reference(job))


def _kto(job: Prepared, laid: Laid, scratch: Path) -> Any:
    if job.plan.rows_per_rank < 2:
        raise UserError(
            "kto compares answers that are computed together, and a rank computes one row at once",
            hint="set train.rows_per_device: 4 and train.global_tokens_per_step to at least 4 times data.max_length",
        )
    wanted = job.config.preference
    arguments = trl.KTOConfig(
        **_common(job, scratch),
        beta=wanted.beta,
        desirable_weight=wanted.desirable_weight,
        undesirable_weight=wanted.undesirable_weight,
        max_length=None,
    )
    rows = _rows(mismatched(list(laid.all(thumb)), job.plan.rows_per_step))
    return KtoTrainer(args=arguments, train_dataset=rows, **_learner(job), **_reference(job))


def _reward(job: Prepared, laid: Laid, scratch: Path) -> Any:
    arguments = trl.RewardConfig(**_common(job, scratch), max_length=None)
    return RewardTrainer(args=arguments, train_dataset=_rows(laid.all(whole_preference)), **_learner(job))


def _grpo(job: Prepared, laid: Laid, scratch: Path) -> Any:
    arguments = trl.GRPOConfig(**_common(job, scratch), **_sampling(job))
    return GrpoTrainer(
        args=arguments,
        train_dataset=_rows(laid.all(question)),
        reward_funcs=_rewards(job),
        **_learner(job),
    )


def _rloo(job: Prepared, laid: Laid, scratch: Path) -> Any:
    arguments = trl.RLOOConfig(**_common(job, scratch), **_sampling(job))
    return RlooTrainer(
        args=arguments,
        train_dataset=_rows(laid.all(question)),
        reward_funcs=_rewards(job),
        **_learner(job),
    )


def _distill(job: Prepared, laid: Laid, scratch: Path) -> Any:
    wanted = job.config.generation
    arguments = trl.DistillationConfig(
        **_common(job, scratch),
        max_completion_length=wanted.max_new_tokens,
        temperature=wanted.temperature,
        shuffle_dataset=False,
    )
    teacher = models.find_base(ModelConfig(path=wanted.teacher), job.config.state)
    loaded = models.load_model(teacher, job.config, precision=job.plan.precision).eval()
    return DistillTrainer(
        args=arguments, train_dataset=_rows(laid.all(question)), teacher_model=loaded, **_learner(job)
    )


def _rows(rows: Any) -> Any:
    return Rows.from_list(list(rows))


def _learner(job: Prepared) -> dict[str, Any]:
    """What learns: the base with an adapter that the trainer puts on it, so that taking it off gives the reference."""
    reward = job.config.task == "reward"
    model = models.load_scorer(job.base, job.config, job.tokenizer) if reward else _base(job)
    found: dict[str, Any] = {"model": model, "processing_class": job.tokenizer}
    if job.config.method.kind != "full":
        kind = "SEQ_CLS" if reward else "CAUSAL_LM"
        found["peft_config"] = models.adapter_config(job.config.method, task_type=kind)
    return found


def _reference(job: Prepared) -> dict[str, Any]:
    """For all weights a second model, which does not learn; of an adapter's the base is the reference."""
    if job.config.method.kind != "full":
        return {}
    reference = _base(job).eval()
    reference.requires_grad_(False)
    return {"ref_model": reference}


def _base(job: Prepared) -> Any:
    return models.load_model(job.base, job.config, tokenizer=job.tokenizer, precision=job.plan.precision)


def _rewards(job: Prepared) -> list[Callable[..., Any]]:
    named = zip(job.config.generation.rewards, rewards(job.config), strict=True)
    return [guarded(name, one) for name, one in named]


def _sampling(job: Prepared) -> dict[str, Any]:
    wanted = job.config.generation
    return {
        "num_generations": wanted.generations,
        "max_completion_length": wanted.max_new_tokens,
        "temperature": wanted.temperature,
        "beta": wanted.beta,
        "shuffle_dataset": False,
        "steps_per_generation": job.plan.accumulation,
        "disable_dropout": True,  # what answers and what learns is one model
    }


def _common(job: Prepared, scratch: Path) -> dict[str, Any]:
    """The arguments that all trainers share; saving, logging, resuming and the learning rate are ours."""
    train, plan = job.config.train, job.plan
    return {
        "output_dir": str(scratch),
        "per_device_train_batch_size": plan.rows_per_rank,
        "gradient_accumulation_steps": plan.accumulation,
        "max_steps": plan.steps,
        "num_train_epochs": 1,
        "learning_rate": train.lr,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.clip_norm,
        "optim": "adamw_torch",
        "seed": train.seed,
        "data_seed": train.seed,
        "bf16": plan.precision == "bf16",
        "use_cpu": plan.device == "cpu",
        "gradient_checkpointing": plan.gradient_checkpointing,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": plan.device == "cuda",
    }


_MAKERS: dict[str, Callable[[Prepared, Laid, Path], Any]] = {
    "dpo": _dpo,
    "kto": _kto,
    "reward": _reward,
    "grpo": _grpo,
    "rloo": _rloo,
    "distill": _distill,
}
