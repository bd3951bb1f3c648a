"""What is asked of a version: the job files of validation and of comparison.

Knows keys, types and defaults. What they are checked against, and how, is for the modules beside this one.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmops.core.state import StateConfig

Plain = bool | int | float | str
Share = Field(ge=0, le=1)
THROUGH = "What a version is asked through that cannot answer by itself: `chain` for a prompt, `gateway` for a route"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Section):
    """What the process of a version may take."""

    memory_mb: int = Field(4096, ge=64, description="Memory beyond what Python and MLflow take")
    load_timeout_s: float = Field(120.0, gt=0, description="For loading the version")
    timeout_s: float = Field(60.0, gt=0, description="For one answer, or one batch of predictions")
    cpu_s: int = Field(900, ge=1, description="Processor time of the whole process")
    answer_mb: int = Field(64, ge=1, description="The largest answer, or batch of predictions")
    network: bool = Field(False, description="Whether it may use the network; a chain that asks an LLM has to")
    environment: tuple[str, ...] = Field((), description="Variables it may see: those its `env:` references name")


class DataConfig(_Section):
    """The held-out rows, which the version has never seen, and what is right for each."""

    table: str = Field(description="Parquet or CSV file, or the three-level name of a table of the lake")
    version: int | None = Field(None, description="Of a table of the lake; default: the newest")
    filter: str | None = Field(None, description="SQL condition on its columns: only these rows")
    label: str = Field(description="Column that says what is right; the version never sees it")
    task: Literal["auto", "classification", "regression"] = "auto"
    positive: Plain | None = Field(None, description="The label that counts as positive; default: the greatest of two")
    prediction: str | None = Field(None, description="Column of the version's output that predicts the label")
    score: str | None = Field(None, description="Column of the version's output with the positive's probability")
    threshold: float = Field(0.5, description="Score from which the positive label is predicted")
    batch_rows: int = Field(10_000, ge=1, description="Rows predicted at once")


class Threshold(_Section):
    """Where a metric has to lie, over all rows and in every slice."""

    metric: str = Field(description="accuracy, recall, roc_auc, rmse, ..., or a scorer of your own")
    min: float | None = None
    max: float | None = None
    slice_min: float | None = None
    slice_max: float | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.min is self.max is self.slice_min is self.slice_max is None:
            raise ValueError("give `min`, `max`, `slice_min` or `slice_max`")
        return self


class Documentation(_Section):
    """What has to be written down about a version before anybody may use it."""

    description: bool = Field(True, description="Whether it needs a description")
    tags: tuple[str, ...] = Field((), description="Tags that must be there and not empty: owner, intended_use, ...")


class LatencyConfig(_Section):
    """How quick predictions have to be once the process is warm, in milliseconds."""

    row_p50_ms: float | None = Field(None, gt=0)
    row_p95_ms: float | None = Field(None, gt=0)
    batch_p50_ms: float | None = Field(None, gt=0)
    batch_p95_ms: float | None = Field(None, gt=0)
    batch_rows: int = Field(1000, ge=1)
    rows: int = Field(100, ge=20, description="Single rows timed")
    batches: int = Field(20, ge=20, description="Batches timed")


class PromptConfig(_Section):
    variables: tuple[str, ...] = Field((), description="Slots `{name}` that the text must have")


class QuestionsConfig(_Section):
    """Questions that a chain has to answer, or to refuse; the file's fields are told in docs/validation.md."""

    file: str = Field(description="JSON lines or YAML list")
    through: dict[str, Any] = Field(default_factory=dict, description=THROUGH)
    answered_min: float = Field(1.0, ge=0, le=1, description="Share of the answerable questions that are answered")
    cited_min: float = Field(1.0, ge=0, le=1, description="Share of the answers that cite")
    refused_min: float = Field(1.0, ge=0, le=1, description="Share of the questions out of scope that are refused")
    scores: tuple[Threshold, ...] = Field((), description="Scorers of answers, with their limits")
    groups: tuple[str, ...] = Field((), description="Groups of whoever asks: which documents are seen")
    first_text_p95_ms: float | None = Field(None, gt=0, description="Until the first text")
    answer_p95_ms: float | None = Field(None, gt=0, description="Until the end of the answer")


class GateSpec(_Section):
    """What both jobs have."""

    state: StateConfig = StateConfig()
    slices: tuple[str, ...] = Field((), description="A column (each of its values), or a condition: amount > 100")
    min_rows: int = Field(30, ge=2, description="Rows below which nothing is decided")
    few_rows: Literal["inconclusive", "skip"] = Field("inconclusive", description="What a slice below `min_rows` gives")
    alpha: float = Field(0.05, gt=0, lt=1)
    resamples: int = Field(2000, ge=100, description="Of every bootstrap and permutation")
    seed: int = 0
    limits: Limits = Limits()


class ValidationSpec(GateSpec):
    """`job: validation`. What is left out is not checked, but for what every version must do: load and answer."""

    job: Literal["validation"] = "validation"
    documentation: Documentation = Documentation()
    data: DataConfig | None = None
    metrics: tuple[Threshold, ...] = ()
    judge_by: Literal["estimate", "interval"] = Field(
        "estimate", description="interval: the whole confidence interval has to lie within the limit"
    )
    signature: bool = Field(True, description="Whether a model needs a signature")
    example: bool = Field(True, description="Whether a model needs an input example that it can predict")
    latency: LatencyConfig | None = None
    size_mb: float | None = Field(None, gt=0, description="The artefact's files")
    peak_memory_mb: float | None = Field(None, gt=0, description="The whole process while it predicts")
    prompt: PromptConfig = PromptConfig()
    questions: QuestionsConfig | None = None
    checks: tuple[str, ...] = Field((), description="Own checks: entry points of `llmops.checks`, or module:function")

    @model_validator(mode="after")
    def _metrics_need_data(self) -> Self:
        if self.data is None and (self.metrics or self.slices or self.latency):
            raise ValueError("`metrics`, `slices` and `latency` need `data`")
        return self


class Baseline(_Section):
    """A heuristic to beat where there is no champion yet."""

    kind: Literal["majority", "mean", "median", "constant", "rule", "function", "refuse"]
    value: Plain | None = Field(None, description="Of `constant`: the label, the number, or the answer's text")
    expression: str | None = Field(None, description="Of `rule`: SQL over the columns, the label or a condition")
    function: str | None = Field(None, description="Of `function`: an entry point, or module:function")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"constant": "value", "rule": "expression", "function": "function"}.get(self.kind)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"the baseline `{self.kind}` needs `{needed}`")
        return self


class Guardrail(_Section):
    """A further metric that must not get worse by more than the margin."""

    metric: str
    margin: float = Field(0.0, ge=0)


class ComparedQuestions(_Section):
    file: str = Field(description="JSON lines or YAML list")
    through: dict[str, Any] = Field(default_factory=dict, description=THROUGH)
    groups: tuple[str, ...] = ()


class ComparisonSpec(GateSpec):
    """`job: comparison`. Both sides meet the same rows, or the same questions."""

    job: Literal["comparison"] = "comparison"
    data: DataConfig | None = None
    questions: ComparedQuestions | None = None
    metric: str = Field(description="What decides: a metric of the data, or a scorer of answers")
    claim: Literal["better", "not_worse"] = Field("better", description="What has to be shown of the challenger")
    min_effect: float = Field(0.0, ge=0, description="Of `better`: by more than this, in the metric's units")
    margin: float = Field(0.0, ge=0, description="Of `not_worse`, and of every slice: by no more than this")
    guardrails: tuple[Guardrail, ...] = ()
    baseline: Baseline | None = Field(None, description="What the first version of an asset is compared with")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.data is None) == (self.questions is None):
            raise ValueError("give either `data` or `questions`")
        return self
