"""A state folder for each test; MLflow's store, which takes a second to make, is made once and copied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, insert, text
from sqlalchemy.engine import make_url
from tests.support.postgresql import postgresql_server

from llmops.core.ids import new_id
from llmops.core.names import Name
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig
from llmops.registry import Kind, Registry, Version, queries, tables
from llmops.registry.mlflow_adapter import MlflowStore


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = StateConfig(dir=tmp_path_factory.mktemp("mlflow"))
    MlflowStore(state).aliases()
    return state.root / "mlflow.db"


@pytest.fixture
def state(tmp_path: Path, empty_mlflow: Path) -> StateConfig:
    folder = tmp_path / "state"
    folder.mkdir()
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    return StateConfig(dir=folder)


@pytest.fixture
def registry(state: StateConfig) -> Iterator[Registry]:
    with Registry(state, actor="tester") as opened:
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


def seed(sql: Sql, name: str, count: int, kind: Kind = Kind.CHAIN) -> list[Version]:
    """Write versions as a registration leaves them, without MLflow and without an alias."""
    now = datetime.now(UTC)
    with sql.begin() as connection:
        connection.execute(insert(tables.assets).values(name=name, kind=kind.value, created_at=now, created_by="seed"))
        rows = [
            {
                "name": name,
                "version": number,
                "digest": f"{number:064x}",
                "source": "",
                "description": "",
                "tags": {},
                "params": {"number": number},
                "created_at": now,
                "created_by": "seed",
            }
            for number in range(1, count + 1)
        ]
        connection.execute(insert(tables.versions), rows)
        return [queries.version(connection, Name.parse(name), number) for number in range(1, count + 1)]
