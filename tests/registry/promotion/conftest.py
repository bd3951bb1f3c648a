"""A registry with three versions that somebody else made, in SQLite and in PostgreSQL.

Both databases are migrated once and copied: an empty one runs every migration when it is opened.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from tests.support.promotions import Desk

from llmops.core.ids import new_id
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.registry import Version
from llmops.registry.promotion import Promoter


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder whose SQLite file is empty and migrated."""
    folder = tmp_path_factory.mktemp("migrated") / "state"
    open_sql(StateConfig(dir=folder)).close()
    return folder


@pytest.fixture(scope="session")
def copied_database(postgresql: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Makes databases from one that was migrated once; gives their URLs."""
    url = make_url(postgresql)

    def create(suffix: str) -> str:
        name = f"flow_{new_id().replace('-', '')}"
        engine = create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} {suffix}"))
        engine.dispose()
        return url.set(database=name).render_as_string(hide_password=False)

    template = create("")
    open_sql(StateConfig(dir=tmp_path_factory.mktemp("template"), sql_url=template)).close()
    return lambda: create(f"TEMPLATE {make_url(template).database}")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def sql_state(request: pytest.FixtureRequest, tmp_path: Path, migrated: Path) -> StateConfig:
    """A state whose SQL is SQLite, then PostgreSQL."""
    folder = tmp_path / "state"
    if request.param == "postgresql":
        return StateConfig(dir=folder, sql_url=request.getfixturevalue("copied_database")())
    shutil.copytree(migrated, folder)
    return StateConfig(dir=folder)


@pytest.fixture
def desk(sql_state: StateConfig) -> Iterator[Desk]:
    with Desk(sql_state) as opened:
        yield opened


@pytest.fixture
def versions(desk: Desk) -> list[Version]:
    return desk.seed()


@pytest.fixture
def promoter(desk: Desk) -> Promoter:
    return Promoter(desk)
