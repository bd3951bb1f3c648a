"""The finetune job file: what is learned, from which data, how, where, and what may be spent on it.

Light to import: pydantic only. Each section is read by the module or folder of its name. The hash of what decides the
result (`identity`) is part of a run's id: the same file over the same data is the same run, and is gone on with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llmops.core.ids import digest
from llmops.core.names import Name
from llmops.core.state import StateConfig

Task = Literal["sft", "cpt", "pretrain", "dpo", "kto", "grpo", "rloo", "reward", "distill"]
Format = Literal["auto", "chat", "instruction", "completion", "preference", "thumbs", "text"]

SUPERVISED: tuple[Task, ...] = ("sft", "cpt", "pretrain")
PREFERRING: tuple[Task, ...] = ("dpo", "kto", "reward")
GENERATING: tuple[Task, ...] = ("grpo", "rloo", "distill")
COMPARING: tuple[Task, ...] = ("dpo", "kto", "reward", "grpo", "rloo")
"""Tasks whose loss compares a model with itself or with its base: it has to say the same thing twice."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Section):
    """The model that training begins with: exactly one of `path`, `config`, `job`."""

    path: str | None = Field(None, description="Hub id, folder, or a registered version: `name/3`, `name@champion`")
    revision: str | None = Field(None, description="Commit of a hub model; a hub id without one is pinned and recorded")
    config: dict[str, Any] | None = Field(None, description="Shape of a new model (`model_type`, sizes), for pretrain")
    job: Path | None = Field(None, description="A finetune job that makes the model; run first where it was not yet")
    tokenizer: str | None = Field(None, description="Folder or hub id; default: the model's, or one made from the data")
    chat_template: Path | None = Field(None, description="Jinja file; default: the tokenizer's own")
    attn: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"

    @model_validator(mode="after")
    def _one_origin(self) -> ModelConfig:
        if sum(one is not None for one in (self.path, self.config, self.job)) != 1:
            raise ValueError("name exactly one of path, config, job")
        return self


class MethodConfig(Section):
    """Which weights learn. Defaults: a LoRA of rank 16 on all linear layers."""

    kind: Literal["lora", "qlora", "dora", "ia3", "full"] = "lora"
    r: int = Field(16, ge=1, le=1024, description="Rank of the update")
    alpha: int = Field(32, ge=1, description="The update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = Field("all-linear", description="Names of layers, or all-linear")
    modules_to_save: tuple[str, ...] = Field((), description="Layers that are trained whole beside the adapter")


class SourceConfig(Section):
    """Rows of one place."""

    uri: str = Field(
        description="File, folder or glob; `table:catalog.schema.table`; `hf:name`; `feedback:`; `make:module:function`"
    )
    format: Format = "auto"
    weight: float | None = Field(
        None, gt=0, description="Share of the mixture, relative to the other sources; default: every row once an epoch"
    )
    split: str = Field("train", description="Split of a dataset that has some")
    where: str | None = Field(None, description="SQL condition on a table's rows")
    limit: int | None = Field(None, ge=1, description="First rows only")


class DataConfig(Section):
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    heldout: tuple[SourceConfig, ...] = Field((), description="Examples to judge by; default: a share of the sources")
    heldout_share: float = Field(0.1, ge=0, lt=1, description="Share kept apart where `heldout` names none")
    max_length: int = Field(1024, ge=8, description="Most tokens of one row")
    on_overlong: Literal["error", "drop", "split"] = "error"
    on_bad: Literal["error", "skip"] = Field("error", description="What becomes of a row that cannot be read")
    packing: Literal["bfd", "none"] = Field(
        "bfd", description="bfd: best fit decreasing; documents never see each other"
    )
    supervise: Literal["assistant", "completion", "all"] = "assistant"
    dedup: Literal["none", "exact", "near"] = "exact"
    near_threshold: float = Field(0.8, gt=0, le=1, description="Jaccard similarity from which two texts are one")
    contamination: tuple[SourceConfig, ...] = Field(
        (), description="Evaluation sets none of whose texts may be learned"
    )
    on_contamination: Literal["error", "drop"] = "error"
    streaming: bool = Field(False, description="Read rows as they are needed; for more than fits in memory")
    shuffle_buffer: int = Field(10_000, ge=1, description="Rows shuffled at once when streaming")

    @field_validator("sources")
    @classmethod
    def _all_weights(cls, value: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
        if len({source.weight is None for source in value}) > 1:
            raise ValueError("give a weight to every source, or to none")
        return value


class BudgetConfig(Section):
    """How long to train: exactly one of the three."""

    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_measure(self) -> BudgetConfig:
        if sum(one is not None for one in (self.steps, self.epochs, self.tokens)) != 1:
            raise ValueError("name exactly one of steps, epochs, tokens")
        return self


class TrainConfig(Section):
    global_tokens_per_step: int = Field(
        16_384, ge=1, description="Tokens of one update, over all ranks; padding counts"
    )
    rows_per_device: int | None = Field(None, ge=1, description="Rows of max_length at once; default: what fits")
    lr: float = Field(2e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    budget: BudgetConfig = BudgetConfig(epochs=1)
    seed: int = Field(7, ge=0, lt=2**32)
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 where the device computes in it")
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    compile: bool = False
    deterministic: bool = Field(False, description="Only kernels that give the same bits each time; slower on GPUs")


class PreferenceConfig(Section):
    """Of dpo, kto and reward."""

    beta: float = Field(0.1, gt=0, description="How far the model may move from the reference")
    loss: str = Field("sigmoid", description="TRL's name of the DPO loss")
    desirable_weight: float = Field(1.0, gt=0)
    undesirable_weight: float = Field(1.0, gt=0)


class GenerationConfig(Section):
    """Of grpo, rloo and distill."""

    rewards: tuple[str, ...] = Field((), description="`module:function`, or a registered reward model, `name@alias`")
    generations: int = Field(8, ge=2, description="Answers compared for one question")
    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(1.0, gt=0)
    beta: float = Field(0.0, ge=0, description="Weight of the divergence from the reference")
    teacher: str | None = Field(None, description="For distill: hub id, folder or registered version")


class ParallelConfig(Section):
    strategy: Literal["auto", "ddp", "fsdp2", "zero2", "zero3"] = "auto"


class CheckpointConfig(Section):
    every_s: float = Field(900.0, gt=0, description="Seconds between checkpoints")
    every_steps: int | None = Field(None, ge=1, description="Steps between checkpoints, in place of seconds")
    keep: int = Field(3, ge=1)
    exact_resume: Literal["require", "best_effort"] = "require"


class GateConfig(Section):
    """What the result has to reach on held-out examples; each threshold that is named counts."""

    loss_max: float | None = Field(None, gt=0)
    token_accuracy_min: float | None = Field(None, ge=0, le=1)
    exact_match_min: float | None = Field(None, ge=0, le=1)
    preference_accuracy_min: float | None = Field(None, ge=0, le=1)
    reward_margin_min: float | None = None
    beat_base: bool = Field(True, description="The result has to be better than the model it began with")


class EvalConfig(Section):
    every_steps: int | None = Field(None, ge=1, description="Held-out loss while training; default: at the end")
    max_examples: int = Field(500, ge=1)
    max_new_tokens: int = Field(64, ge=1)
    gate: GateConfig = GateConfig()


class TrackConfig(Section):
    experiment: str | None = Field(None, description="Default: the name the result is registered as")
    register_as: str | None = Field(None, description="Name of the version; of two levels: in the catalog of --env")
    promote: bool = Field(True, description="Offer the version that passed the gate as challenger")

    @field_validator("register_as")
    @classmethod
    def _three_levels(cls, value: str | None) -> str | None:
        return value if value is None else str(Name.parse(value))


class TargetConfig(Section):
    """What will serve the result, so that what it cannot serve is refused before training."""

    engine: Literal["vllm", "transformers", "llamacpp"] = "transformers"
    merge: bool = Field(False, description="Serve the merged weights, not the adapter beside its base")


class LaunchConfig(Section):
    kind: Literal["local", "torchrun", "slurm", "trainjob", "ray", "skypilot"] = "local"
    nodes: int = Field(1, ge=1)
    gpus: int = Field(0, ge=0, description="GPUs of one node; 0: CPU processes")
    processes: int | None = Field(None, ge=1, description="Ranks of one node; default: its GPUs, or 1")
    price_per_gpu_h: float | None = Field(None, ge=0, description="USD")
    image: str | None = Field(None, description="Container image of the cluster's launchers")
    queue: str | None = Field(None, description="Slurm partition, or Kueue queue")
    hours: float = Field(24.0, gt=0, description="Wall time asked of the cluster for one attempt")
    restarts: int = Field(3, ge=0, description="Automatic restarts after a rank or a node fails")
    shared_dir: Path | None = Field(None, description="Folder that every node sees; checkpoints and artefacts go there")
    environment: dict[str, str] = Field(
        default_factory=dict, description="Variables of the ranks; secrets by reference"
    )

    @property
    def ranks_per_node(self) -> int:
        return self.processes or self.gpus or 1


class LoopConfig(Section):
    """Of `llmops finetune loop`: how much feedback there has to be, and how much of it one person may have given."""

    min_rows: int = Field(50, ge=1, description="Thumbs, or pairs of them, that there have to be")
    min_each: int = Field(10, ge=1, description="Liked answers, and disliked ones")
    min_people: int = Field(3, ge=1, description="People who gave thumbs")
    max_share: float = Field(0.2, gt=0, le=1, description="Most of all thumbs that one person may have given")
    take: Literal["all", "new"] = Field("all", description="new: learn only from what no loop has taken yet")


class LimitsConfig(Section):
    usd: float | None = Field(None, gt=0)
    hours: float | None = Field(None, gt=0)


class FinetuneConfig(Section):
    job: Literal["finetune"] = "finetune"
    name: str = Field("finetune", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Begins the ids of its runs")
    task: Task = "sft"
    model: ModelConfig
    method: MethodConfig = MethodConfig()
    data: DataConfig
    train: TrainConfig = TrainConfig()
    preference: PreferenceConfig = PreferenceConfig()
    generation: GenerationConfig = GenerationConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    track: TrackConfig = TrackConfig()
    target: TargetConfig = TargetConfig()
    launch: LaunchConfig = LaunchConfig()
    limits: LimitsConfig = LimitsConfig()
    loop: LoopConfig = LoopConfig()
    state: StateConfig = StateConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> FinetuneConfig:
        if self.model.config is not None and (self.task != "pretrain" or self.method.kind != "full"):
            raise ValueError("a new model (model.config) is made by task: pretrain with method.kind: full")
        if self.task == "distill" and self.generation.teacher is None:
            raise ValueError("task distill needs generation.teacher")
        if self.task in ("grpo", "rloo") and not self.generation.rewards:
            raise ValueError(f"task {self.task} needs generation.rewards")
        if self.task in COMPARING and self.method.dropout:
            raise ValueError(
                f"task {self.task} compares a model with itself, which dropout would blur, and TRL leaves it out: "
                "set method.dropout: 0; preference.beta or generation.beta keep the model near its base"
            )
        if self.task == "reward" and self.method.kind == "qlora":
            raise ValueError("task reward adds a head that has to learn in full precision: set method.kind: lora")
        if self.train.global_tokens_per_step < self.data.max_length:
            raise ValueError("train.global_tokens_per_step is less than one row of data.max_length tokens")
        return self

    @property
    def identity(self) -> str:
        """SHA-256 of what decides the weights that come out: not where it runs, nor what is kept or spent."""
        deciding = self.model_dump(
            mode="json",
            include={"task", "model", "method", "data", "train", "preference", "generation", "parallel"},
        )
        return digest(deciding)
