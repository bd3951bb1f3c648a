"""How a job's steps are divided on the devices there are: how many, how many rows at once, in which precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from llmops.core.errors import UserError
from llmops.finetune.config import SUPERVISED, FinetuneConfig
from llmops.finetune.data.dataset import Dataset
from llmops.finetune.engines import Plan
from llmops.finetune.engines.memory import estimate, free_bytes

_SHARE = 0.85
"""Of free memory that a plan may fill: allocators leave gaps."""
_CPU_TOKENS = 8192
"""Tokens at once on a CPU: more only strain its caches."""


def plan_for(config: FinetuneConfig, shape: Mapping[str, Any], data: Dataset) -> Plan:
    """The plan of a job.

    Raises:
        UserError: a step has too few rows for the ranks, or one rank too few devices for the strategy.
    """
    device = _device()
    ranks = config.launch.nodes * config.launch.ranks_per_node
    rows = max(1, config.train.global_tokens_per_step // config.data.max_length)
    if rows < ranks:
        raise UserError(
            f"a step of {config.train.global_tokens_per_step} tokens has {rows} rows, too few for {ranks} ranks",
            hint=f"set train.global_tokens_per_step: {ranks * config.data.max_length}",
        )
    each = rows // ranks
    plan = Plan(
        steps=1,
        ranks=ranks,
        rows_per_rank=1,
        accumulation=each,
        width=config.data.max_length,
        strategy=_strategy(config, ranks, device),
        device=device,
        precision=_precision(config, device),
        gradient_checkpointing=config.train.gradient_checkpointing == "on",
    )
    plan = _rows_at_once(plan, config, shape, data, each)
    return replace(plan, steps=_steps(config, data, plan))


def _steps(config: FinetuneConfig, data: Dataset, plan: Plan) -> int:
    budget = config.train.budget
    if budget.steps is not None:
        return budget.steps
    if budget.tokens is not None:
        return max(1, -(-budget.tokens // (plan.rows_per_step * plan.width)))
    assert budget.epochs is not None
    if config.task not in SUPERVISED:  # examples are learned from whole, one by one
        per_step = max(1, plan.rows_per_step // _answers(config))
        return max(1, math.ceil(budget.epochs * len(data.examples) / per_step))
    return data.feed(config, plan.rows_per_step).steps(budget.epochs)


def _answers(config: FinetuneConfig) -> int:
    """Rows that one example takes in a step."""
    return config.generation.generations if config.task in ("grpo", "rloo") else 1


def _rows_at_once(plan: Plan, config: FinetuneConfig, shape: Mapping[str, Any], data: Dataset, each: int) -> Plan:
    """The most rows at once that divide a rank's share and fit; recomputing activations only where one row needs it."""
    wanted = config.train.rows_per_device
    share = data.statistics.supervised_share or 1.0
    free = free_bytes(plan.device)
    for checkpointing in (plan.gradient_checkpointing, True):
        for rows in sorted((one for one in range(1, each + 1) if each % one == 0), reverse=True):
            made = replace(plan, rows_per_rank=rows, accumulation=each // rows, gradient_checkpointing=checkpointing)
            if wanted is not None and rows > wanted:
                continue
            if wanted is None and plan.device == "cpu" and rows > 1 and rows * plan.width > _CPU_TOKENS:
                continue
            if free is None or estimate(shape, config, made, supervised_share=share).total < _SHARE * free:
                return made
        if config.train.gradient_checkpointing == "off":
            break
    return replace(plan, gradient_checkpointing=config.train.gradient_checkpointing != "off")


def _strategy(config: FinetuneConfig, ranks: int, device: str) -> Literal["single", "ddp", "fsdp2", "zero2", "zero3"]:
    wanted = config.parallel.strategy
    if config.task not in SUPERVISED:
        return _copies(config, ranks)
    if ranks == 1 and wanted in ("auto", "ddp", "fsdp2"):
        return "single"
    if wanted == "auto":
        return "fsdp2" if config.method.kind == "full" and device == "cuda" else "ddp"
    return wanted


def _copies(config: FinetuneConfig, ranks: int) -> Literal["single", "ddp"]:
    """TRL's trainers learn on copies: on CPU ranks accelerate makes DDP of all else, and says nothing."""
    wanted = config.parallel.strategy
    if wanted not in ("auto", "ddp"):
        raise UserError(
            f"task {config.task} trains on copies of the model (ddp), and parallel.strategy is {wanted}",
            hint="set parallel.strategy: ddp; where the model does not fit a device, method.kind: lora or qlora, or "
            "train.gradient_checkpointing: on",
            code="strategy_not_available",
        )
    return "single" if ranks == 1 else "ddp"


def _precision(config: FinetuneConfig, device: str) -> Literal["fp32", "bf16"]:
    if config.train.precision != "auto":
        return config.train.precision
    if device == "cuda":
        import torch

        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "fp32"


def _device() -> Literal["cpu", "cuda"]:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
