"""A bench on which workflows run, over SQLite and PostgreSQL."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.workflows import Bench

from llmops.core.state import StateConfig


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task's process finds what this one finds."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.fixture
def bench(tmp_path: Path, migrated: Path) -> Iterator[Bench]:
    shutil.copytree(migrated, tmp_path / "state")
    made = Bench(tmp_path, StateConfig(dir=tmp_path / "state"))
    yield made
    made.flows.close()


@pytest.fixture
def sql_bench(tmp_path: Path, sql_state: StateConfig) -> Iterator[Bench]:
    """Over SQLite, then over PostgreSQL."""
    made = Bench(tmp_path, sql_state)
    yield made
    made.flows.close()
