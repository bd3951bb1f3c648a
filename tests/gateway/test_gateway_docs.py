"""What docs/gateway.md says of names is true; that its configurations run is `test_docs_served`'s to show."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from llmops.gateway.control.usage import DIMENSIONS
from llmops.gateway.supervisor import _FIXED

PAGE = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_there_are_configurations() -> None:
    assert len(BLOCKS) >= 15
    assert len(BLOCKS[0].splitlines()) == 10


def test_the_names_are_the_real_ones() -> None:
    for dimension in DIMENSIONS:
        assert dimension in PAGE
    assert all(f"`{name}`" in PAGE for name in _FIXED)
    for command in re.findall(r"^    llmops gateway (\w+ \w+)", PAGE, re.MULTILINE):
        assert command in ("keys create", "keys list", "keys revoke")


def test_the_repository_s_own_job_is_the_page_s_example() -> None:
    own = yaml.safe_load((Path(__file__).parents[2] / "configs" / "gateway.yaml").read_text(encoding="utf-8"))
    assert own == yaml.safe_load(BLOCKS[0])
