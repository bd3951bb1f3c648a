"""A state for each test, over SQLite and over PostgreSQL.

What takes long to make is made once and copied: MLflow's store, and the migrated tables of either database.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.postgresql import database, own_database, postgresql_server

from llmops.core.identity import Principal
from llmops.core.ids import new_id
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig
from llmops.registry import Registry
from llmops.registry.mlflow_adapter import MlflowStore


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow, called without our adapter, writes into the working folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = StateConfig(dir=tmp_path_factory.mktemp("mlflow"))
    MlflowStore(state, "dev").aliases()
    return state.root / "mlflow" / "dev.db"


@pytest.fixture
def state(tmp_path: Path, empty_mlflow: Path, migrated: Path) -> StateConfig:
    folder = tmp_path / "state"
    shutil.copytree(migrated, folder)
    (folder / "mlflow").mkdir()
    shutil.copyfile(empty_mlflow, folder / "mlflow" / "dev.db")
    return StateConfig(dir=folder)


@pytest.fixture
def registry(state: StateConfig) -> Iterator[Registry]:
    with Registry(state, principal=Principal(id="tester", kind="person")) as opened:
        yield opened


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    with postgresql_server() as url:
        yield url


@pytest.fixture
def postgresql_url(postgresql: str) -> Iterator[str]:
    """A database of its own on the session's server."""
    with own_database(postgresql) as url:
        yield url


@pytest.fixture(scope="session")
def copied_database(postgresql: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Makes databases from one that was migrated once; gives their URLs."""
    url = database(postgresql, "migrated")
    open_sql(StateConfig(dir=tmp_path_factory.mktemp("template"), sql_url=url)).close()
    return lambda: database(postgresql, f"test_{new_id().replace('-', '')}", "migrated")


@pytest.fixture
def migrated_url(postgresql: str, copied_database: Callable[[], str]) -> Iterator[str]:
    with own_database(postgresql, "migrated") as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def sql_state(request: pytest.FixtureRequest, tmp_path: Path, migrated: Path) -> StateConfig:
    """A state whose SQL is SQLite, then PostgreSQL."""
    folder = tmp_path / "state"
    if request.param == "postgresql":
        return StateConfig(dir=folder, sql_url=request.getfixturevalue("migrated_url"))
    shutil.copytree(migrated, folder)
    return StateConfig(dir=folder)


@pytest.fixture
def sql(sql_state: StateConfig) -> Iterator[Sql]:
    with open_sql(sql_state) as opened:
        yield opened
