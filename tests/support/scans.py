"""The moment of a refresh at which all documents are found, and none was read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmops.rag.ingest import look as looking
from llmops.rag.ingest import refresh as refreshing


def after_the_scan(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Has something happen at that moment of each refresh of this process."""

    def look(*arguments: Any) -> looking.Found:
        found = looking.look(*arguments)
        act()
        return found

    monkeypatch.setattr(refreshing, "look", look)
