"""A registry with three versions that somebody else made, in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.promotions import Desk

from llmops.core.state import StateConfig
from llmops.registry import Version
from llmops.registry.promotion import Promoter


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
