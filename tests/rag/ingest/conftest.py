"""A PostgreSQL server for the session, with a database of its own for each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.support.postgresql import database, postgresql_server

from llmops.core.ids import new_id


@pytest.fixture(scope="session")
def fresh_database() -> Iterator[Callable[[], str]]:
    """Makes an empty database and gives its URL."""
    with postgresql_server() as url:
        yield lambda: database(url, f"test_{new_id().replace('-', '')}")
