"""What it is to train: one protocol for all engines, what they are given, what they tell meanwhile, what they leave.

`supervised` is the own loop of sft, cpt and pretrain; `trl` adapts TRL's trainers of the other tasks. An engine goes
on from the newest valid checkpoint of the run's folder by itself, and leaves the result in `folder.model`. No torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

from llmops.finetune.config import SUPERVISED, FinetuneConfig, Task
from llmops.finetune.data.dataset import Dataset
from llmops.finetune.runs import RunFolder

if TYPE_CHECKING:
    from llmops.finetune.models import BaseModel


@dataclass(frozen=True)
class Plan:
    """How a step is divided: `rows_per_step = ranks * accumulation * rows_per_rank`.

    Args:
        rows_per_rank: rows that one rank computes at once.
        accumulation: how often it does so before weights change.
        width: most tokens of a row.
        strategy: `single` where there is one rank.
        device: `cpu` or `cuda`.
    """

    steps: int
    ranks: int
    rows_per_rank: int
    accumulation: int
    width: int
    strategy: Literal["single", "ddp", "fsdp2", "zero2", "zero3"] = "single"
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False

    @property
    def rows_per_step(self) -> int:
        return self.ranks * self.accumulation * self.rows_per_rank

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Prepared:
    """All that a training needs, checked.

    Args:
        base: the model that it begins with.
        tokenizer: of transformers, with the chat template that is trained with.
    """

    config: FinetuneConfig
    base: BaseModel
    tokenizer: Any
    data: Dataset
    plan: Plan


@dataclass(frozen=True)
class StepDone:
    """One update of the weights.

    Args:
        step: how many updates there are now: 1 after the first.
        loss: per supervised token, over all ranks.
        tokens: without padding; `supervised_tokens` are those that were learned.
        seconds: wall time of the step.
        examples: ids of what it learned from, for the ledger.
    """

    step: int
    loss: float
    lr: float
    tokens: int
    supervised_tokens: int
    seconds: float
    grad_norm: float | None = None
    peak_memory_bytes: int | None = None
    epoch: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    kind: Literal["step"] = "step"


@dataclass(frozen=True)
class Saved:
    """A checkpoint is durable."""

    step: int
    seconds: float
    size_bytes: int
    kind: Literal["checkpoint"] = "checkpoint"


@dataclass(frozen=True)
class Resumed:
    """Training goes on after `step`; `rejected` says which newer checkpoints are broken, and how."""

    step: int
    rejected: tuple[str, ...] = ()
    kind: Literal["resumed"] = "resumed"


@dataclass(frozen=True)
class Warned:
    """Something that a person should know, and that does not end the run."""

    step: int
    text: str
    kind: Literal["warning"] = "warning"


@dataclass(frozen=True)
class Evaluated:
    """Figures on held-out examples, while training."""

    step: int
    figures: dict[str, float]
    kind: Literal["evaluated"] = "evaluated"


@dataclass(frozen=True)
class Phase:
    """A part of the work other than training: `done` of `of` (0: not known) in `stage`."""

    stage: str
    done: int = 0
    of: int = 0
    kind: Literal["phase"] = "phase"


Event = StepDone | Saved | Resumed | Warned | Evaluated | Phase
Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Trained:
    """What a training came to; the result lies in the run's `model` folder.

    Args:
        seconds: spent in steps by this attempt.
        resumed_from: the step that this attempt went on after; 0 where it began anew.
    """

    steps: int
    loss: float
    tokens: int
    supervised_tokens: int
    seconds: float
    resumed_from: int = 0


class Engine(Protocol):
    """Trains one job."""

    def train(self, job: Prepared, folder: RunFolder, listen: Listener) -> Trained:
        """Train to the last step, from the newest valid checkpoint on.

        Raises:
            GateFailedError: the loss is no number any more; names the step and its examples.
            UserError: it does not fit in memory; says what to change, by how much.
            ConflictError: the run was begun in another way, and `checkpoint.exact_resume` is `require`.
            StorageError: the disk is full; earlier checkpoints are intact.
        """
        ...


def engine_for(task: Task, pause: Callable[[str], None] | None = None) -> Engine:
    """The engine of a task; imported when it is asked for.

    Args:
        pause: called at each stage of writing a checkpoint; a proof kills the process there.
    """
    name = "supervised:SupervisedEngine" if task in SUPERVISED else "trl:TrlEngine"
    module, _, attribute = name.partition(":")
    engine: Engine = getattr(import_module(f"llmops.finetune.engines.{module}"), attribute)(pause)
    return engine
