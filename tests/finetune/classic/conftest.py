"""A small world, its lake and one trained version, made once for all tests of the room."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.transactions import WORLD, context

from llmops.core.lake import Lake
from llmops.core.state import StateConfig
from llmops.finetune.classic import tasks
from llmops.finetune.classic.data import prepare
from llmops.finetune.classic.transactions import begin_of


@pytest.fixture(scope="session")
def august(tmp_path_factory: pytest.TempPathFactory) -> StateConfig:
    """The data up to August. Read it only."""
    state = StateConfig(dir=tmp_path_factory.mktemp("august"))
    prepare(Lake(state), "dev", WORLD, begin_of(7))
    return state


@pytest.fixture(scope="session")
def trained(august: StateConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[StateConfig, dict[str, Any]]:
    """A version trained in August, and what the task said. Read it only."""
    folder = tmp_path_factory.mktemp("trained") / "state"
    shutil.copytree(august.root, folder)
    state = StateConfig(dir=folder)
    return state, tasks.train(context(state, "train"))


@pytest.fixture
def fresh(trained: tuple[StateConfig, dict[str, Any]], tmp_path: Path) -> StateConfig:
    """A copy of the trained state to change."""
    folder = tmp_path / "state"
    shutil.copytree(trained[0].root, folder)
    return StateConfig(dir=folder)
