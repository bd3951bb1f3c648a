"""One server for the tests that only ask; those that break things start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.serving import Running, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("state")) as started:
        yield started


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"
