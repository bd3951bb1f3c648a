"""PostgreSQL killed in a transaction: a clear error, nothing half done, and the same open state goes on."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext

import pytest
from sqlalchemy import insert, select, text
from tests.core.test_sql import _row
from tests.support.postgresql import PostgresqlProcess

from llmops.core.errors import UnavailableError
from llmops.core.keys import KEYS
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig

pytestmark = [pytest.mark.postgresql, pytest.mark.kill]


def _held(sql: Sql) -> list[str]:
    with sql.read() as connection:
        return sorted(connection.execute(select(KEYS.c.key_id)).scalars())


@pytest.mark.parametrize("killed", ["backend", "server"])
def test_a_kill_in_a_transaction_leaves_nothing_of_it(
    postgresql_with_state: PostgresqlProcess, postgresql_state: StateConfig, killed: str
) -> None:
    recovering = postgresql_with_state.recovering() if killed == "backend" else nullcontext()
    with open_sql(postgresql_state) as sql:
        with sql.begin() as connection:
            connection.execute(insert(KEYS).values(_row("before")))
        told = pytest.raises(UnavailableError, match="the database does not answer")
        with recovering, told, sql.begin() as connection:
            connection.execute(insert(KEYS).values(_row("half")))
            if killed == "backend":
                os.kill(connection.execute(text("SELECT pg_backend_pid()")).scalar_one(), signal.SIGKILL)
            else:
                postgresql_with_state.kill()
            connection.execute(insert(KEYS).values(_row("other half")))
        if killed == "server":
            with pytest.raises(UnavailableError, match="the database does not answer"), sql.begin():
                pass
            postgresql_with_state.start()
        assert _held(sql) == ["before"]
        with sql.begin() as connection:
            connection.execute(insert(KEYS).values(_row("half")))
        assert _held(sql) == ["before", "half"]


def test_a_kill_just_before_the_commit_commits_nothing(
    postgresql_with_state: PostgresqlProcess, postgresql_state: StateConfig
) -> None:
    with open_sql(postgresql_state) as sql:
        with postgresql_with_state.recovering(), pytest.raises(UnavailableError), sql.begin() as connection:
            connection.execute(insert(KEYS).values(_row("half")))
            backend = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            os.kill(backend, signal.SIGKILL)
        assert _held(sql) == []
