"""What a training of the fraud model is told: the moment it takes place, what it learns from, how trees grow.

Plain, frozen values; the task's `with:` of a workflow is read into them.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmops.core.errors import ConfigError
from llmops.finetune.classic.transactions import World


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trees(_Section):
    """How the boosted trees grow; what `search` varies."""

    rounds: int = Field(200, ge=1, le=5000, description="Most trees; fewer where the last 20 brought nothing")
    depth: int = Field(5, ge=1, le=16)
    eta: float = Field(0.1, gt=0, le=1, description="What each tree counts")
    child_weight: float = Field(1.0, ge=0, description="Least weight of a leaf")
    subsample: float = Field(0.8, gt=0, le=1, description="Share of rows a tree sees")
    columns: float = Field(0.8, gt=0, le=1, description="Share of inputs a tree sees")
    l2: float = Field(1.0, ge=0)


class WorldSettings(_Section):
    """How large the generated world is."""

    seed: int = 7
    customers: int = Field(1500, ge=10)
    merchants: int = Field(200, ge=12)
    a_month: int = Field(4000, ge=200, description="Honest transactions a month")

    def build(self) -> World:
        return World(self.seed, self.customers, self.merchants, self.a_month)


class TrainSettings(_Section):
    """`with:` of the tasks `prepare`, `explore`, `search` and `train`."""

    asset: str = Field("fraud.fraud_clf", description="The version's name; the catalog is the workflow's")
    today: str = Field("2025-08", description="The first of this month is the moment of training: 2025-02 to 2026-01")
    months: int = Field(4, ge=1, le=12, description="How many months (of 30 days) to learn from")
    train_until: str = Field("", description="Learn from what was before this month; empty: up to the held-out days")
    holdout_days: int = Field(30, ge=1, description="The newest days whose truth is known are held out")
    leave_out: tuple[str, ...] = Field((), description="Inputs that the model does not get")
    seed: int = 7
    trees: Trees = Trees()
    world: WorldSettings = WorldSettings()
    study: str = Field("", description="File of a search whose best trees are taken; empty: `trees` as they stand")
    trials: int = Field(20, ge=1, description="Of a search")


def read_settings(given: dict[str, Any]) -> TrainSettings:
    """Check what a task was given.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    try:
        return TrainSettings.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"`{key}`: {problem['msg'][:1].lower()}{problem['msg'][1:]}", where="with:") from error


def described(settings: TrainSettings) -> dict[str, str]:
    """The settings as flat words, for a run's parameters."""
    flat: dict[str, str] = {}
    for key, value in settings.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": str(one) for inner, one in value.items()}
        else:
            flat[key] = ", ".join(value) if isinstance(value, list) else str(value)
    return flat
