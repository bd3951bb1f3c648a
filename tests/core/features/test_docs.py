"""docs/features.md does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.snippets import run_python


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert run_python("features.md") == 4
