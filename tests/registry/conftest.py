"""A state folder for each test; MLflow's store, which takes a second to make, is made once and copied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from tests.support.postgresql import postgresql_server

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
def state(tmp_path: Path, empty_mlflow: Path) -> StateConfig:
    folder = tmp_path / "state"
    (folder / "mlflow").mkdir(parents=True)
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
def postgresql_url(postgresql: str) -> str:
    """A database of its own on the session's server."""
    name = f"test_{new_id().replace('-', '')}"
    engine = create_engine(make_url(postgresql).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(postgresql).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def sql_state(request: pytest.FixtureRequest, tmp_path: Path) -> StateConfig:
    """A state whose SQL is SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        return StateConfig(dir=tmp_path / "state")
    return StateConfig(dir=tmp_path / "state", sql_url=request.getfixturevalue("postgresql_url"))


@pytest.fixture
def sql(sql_state: StateConfig) -> Iterator[Sql]:
    with open_sql(sql_state) as opened:
        yield opened
