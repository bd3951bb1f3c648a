"""A small world of card transactions, its tasks as a workflow calls them, and processes that are killed at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmops.core.identity import LOCAL
from llmops.core.lake import Lake
from llmops.core.state import StateConfig
from llmops.finetune.classic import tasks
from llmops.finetune.classic.data import prepare
from llmops.finetune.classic.transactions import World, begin_of
from llmops.registry.workflow import TaskContext

WORLD = World(customers=300, merchants=60, a_month=1500)
WITH = {"world": {"customers": 300, "merchants": 60, "a_month": 1500}}


def context(state: StateConfig, task: str, run_id: str = "run", **settings: Any) -> TaskContext:
    return TaskContext(run_id, "fraud", task, 1, {**WITH, **settings}, {}, "dev", state, LOCAL)


def prepared(root: Path) -> None:
    prepare(Lake(StateConfig(dir=root)), "dev", WORLD, begin_of(7))


def searched(root: Path, study: Path, trials: int) -> dict[str, Any]:
    return tasks.search(context(StateConfig(dir=root), "search", study=str(study), trials=trials))
