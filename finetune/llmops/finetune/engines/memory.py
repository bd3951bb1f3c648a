"""How much memory a training takes, estimated before it starts, and what to change when it was not enough.

    weights      parameters x bytes; the frozen ones in the plan's precision, those that learn in fp32; the reference
                 that all weights are compared with, once more; a distillation's teacher, as large as the model at least
    gradients    4 bytes a parameter that learns;  optimizer: 8 more
    activations  tokens at once (twice where a row is a pair) x layers x (34 hidden + 5 heads x width) / 2 x bytes;
                 attention's square if it is kept
    logits       supervised tokens at once x vocabulary x 10 bytes

Source: Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, 2022, equations 2 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmops.core.errors import UserError
from llmops.finetune.config import SUPERVISED, FinetuneConfig
from llmops.finetune.engines import Plan, Prepared


class OutOfMemory(UserError):
    """A training did not fit; the hint says what to change, by how much."""

    code = "out_of_memory"


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def text(self) -> str:
        parts = ", ".join(f"{name} {_size(value)}" for name, value in asdict(self).items())
        return f"{_size(self.total)} ({parts})"


def estimate(shape: Mapping[str, Any], config: FinetuneConfig, plan: Plan, *, supervised_share: float = 1.0) -> Memory:
    """What one rank will need."""
    every, learning = parameters(shape), learning_parameters(shape, config)
    low = 2 if plan.precision == "bf16" else 4
    shares = plan.ranks if plan.strategy in ("fsdp2", "zero3") else 1
    halves = plan.ranks if plan.strategy in ("fsdp2", "zero2", "zero3") else 1
    frozen = every if config.method.kind != "full" else 0
    stored = 0.5625 if config.method.kind == "qlora" else low if shares == 1 else 4
    tokens = plan.rows_per_rank * plan.width * (2 if config.task in ("dpo", "reward") else 1)
    beside = every * (low if frozen else 4) if _has_second(config) else 0
    hidden, layers = int(shape.get("hidden_size", 0)), int(shape.get("num_hidden_layers", 0))
    heads = int(shape.get("num_attention_heads", 0))
    square = 5 * heads * plan.width if config.model.attn == "eager" else 0
    kept = 2 * hidden if plan.gradient_checkpointing else 34 * hidden * low / 2 + square
    return Memory(
        weights=int((frozen * stored + learning * 4) / shares + beside),
        gradients=learning * 4 // halves,
        optimizer=learning * 8 // halves,
        activations=int(tokens * layers * kept),
        logits=int(tokens * max(supervised_share, 0.01) * int(shape.get("vocab_size", 0)) * 10),
    )


def _has_second(config: FinetuneConfig) -> bool:
    """Whether another model is held beside the one that learns."""
    if config.task == "distill":
        return True
    compared = config.task in ("dpo", "kto") or (config.task in ("grpo", "rloo") and config.generation.beta > 0)
    return compared and config.method.kind == "full"


def parameters(shape: Mapping[str, Any]) -> int:
    """Of a decoder of this shape: embeddings, attention and a gated feed-forward network in each layer."""
    hidden, layers = int(shape.get("hidden_size", 0)), int(shape.get("num_hidden_layers", 0))
    heads = int(shape.get("num_attention_heads") or 1)
    head = int(shape.get("head_dim") or hidden // heads)
    kv = int(shape.get("num_key_value_heads") or heads)
    inner = int(shape.get("intermediate_size") or 4 * hidden)
    attention = hidden * head * (2 * heads + 2 * kv)
    vocabulary = int(shape.get("vocab_size", 0)) * hidden * (1 if shape.get("tie_word_embeddings") else 2)
    return vocabulary + layers * (attention + 3 * hidden * inner + 2 * hidden) + hidden


def learning_parameters(shape: Mapping[str, Any], config: FinetuneConfig) -> int:
    """Of the method: all, or those of a LoRA of its rank on all linear layers."""
    if config.method.kind == "full":
        return parameters(shape)
    hidden, layers = int(shape.get("hidden_size", 0)), int(shape.get("num_hidden_layers", 0))
    heads = int(shape.get("num_attention_heads") or 1)
    head = int(shape.get("head_dim") or hidden // heads)
    kv = int(shape.get("num_key_value_heads") or heads)
    inner = int(shape.get("intermediate_size") or 4 * hidden)
    sides = 2 * (hidden + heads * head) + 2 * (hidden + kv * head) + 3 * (hidden + inner)
    return layers * (2 * kv * head + inner if config.method.kind == "ia3" else config.method.r * sides)


def free_bytes(device: str) -> int | None:
    """What one device has free now; None where it does not say."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    try:
        found = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return int(found["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in found else None


def what_to_change(config: FinetuneConfig, plan: Plan) -> str:
    """The first of what helps, with its figures."""
    if plan.rows_per_rank > (2 if config.task == "kto" else 1):
        rows = plan.rows_per_rank // 2
        return (
            f"set train.rows_per_device: {rows} (it was {plan.rows_per_rank}): activations halve, the result is equal"
        )
    if not plan.gradient_checkpointing:
        return "set train.gradient_checkpointing: on: activations shrink about 17 times, steps take a third longer"
    if config.method.kind == "full":
        return "set method.kind: lora: gradients and optimizer shrink about a hundred times"
    shorter = f"set data.max_length: {plan.width // 2} (it is {plan.width})"
    if config.task in SUPERVISED:
        return f"{shorter}, or parallel.strategy: fsdp2 on more devices"
    quarter = "" if config.method.kind == "qlora" or config.task == "reward" else ", or method.kind: qlora on a GPU"
    return f"{shorter}{quarter}"


@contextmanager
def out_of_memory(job: Prepared) -> Iterator[None]:
    """Turns the allocator's words into what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_memory(error):
            raise
        needed = estimate(job.base.shape, job.config, job.plan)
        raise OutOfMemory(
            f"training does not fit in memory: it takes about {needed.text()}",
            where=f"{job.plan.rows_per_rank} rows of {job.plan.width} tokens at once on one {job.plan.device} device",
            hint=what_to_change(job.config, job.plan),
        ) from error


def _is_memory(error: BaseException) -> bool:
    told = str(error)
    words = ("not enough memory", "allocate memory")  # of the CPU's allocator
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(one in told for one in words)
    )


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""
