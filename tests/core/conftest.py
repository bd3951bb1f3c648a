"""The own state, migrated, on SQLite and on PostgreSQL: each test gets a copy of one migrated database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.postgresql import PostgresqlProcess, database, own_database, postgresql_process

from llmops.core.sql import open_sql
from llmops.core.state import StateConfig


@pytest.fixture(scope="session")
def postgresql_with_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlProcess]:
    with postgresql_process() as server:
        url = database(server.url, "migrated")
        open_sql(StateConfig(dir=tmp_path_factory.mktemp("migrated"), sql_url=url)).close()
        yield server


@pytest.fixture
def empty_database(postgresql_with_state: PostgresqlProcess) -> Iterator[str]:
    with own_database(postgresql_with_state.url) as url:
        yield url


@pytest.fixture
def postgresql_state(postgresql_with_state: PostgresqlProcess, tmp_path: Path) -> Iterator[StateConfig]:
    with own_database(postgresql_with_state.url, "migrated") as url:
        yield StateConfig(dir=tmp_path, sql_url=url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def either_state(request: pytest.FixtureRequest, tmp_path: Path, migrated: Path) -> StateConfig:
    if request.param == "sqlite":
        shutil.copytree(migrated, tmp_path, dirs_exist_ok=True)
        return StateConfig(dir=tmp_path)
    state: StateConfig = request.getfixturevalue("postgresql_state")
    return state
