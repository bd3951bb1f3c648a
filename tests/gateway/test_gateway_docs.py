"""Every configuration that docs/gateway.md shows is one the gateway runs with, and what it says of names is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from llmops.core.config import load_config
from llmops.gateway.config import GatewayConfig
from llmops.gateway.control.usage import DIMENSIONS
from llmops.gateway.supervisor import _FIXED
from llmops.gateway.worker import check_worker

PAGE = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SECRETS = set(re.findall(r"env:([A-Z_]+)", PAGE))


def test_there_are_configurations() -> None:
    assert len(BLOCKS) >= 15
    assert len(BLOCKS[0].splitlines()) == 10


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split(":")[0] + str(BLOCKS.index(block)))
def test_every_configuration_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece is laid over the ten lines that the page begins with, as it says."""
    for name in SECRETS:
        monkeypatch.setenv(name, "redis://localhost:6379" if name == "REDIS_URL" else "sk-0123456789abcdef")
    file = tmp_path / "gateway.yaml"
    whole = {**yaml.safe_load(BLOCKS[0]), **yaml.safe_load(block), "state": {"dir": str(tmp_path / "state")}}
    file.write_text(yaml.safe_dump(whole), encoding="utf-8")
    config = load_config(GatewayConfig, file).value
    check_worker(config)


def test_the_names_are_the_real_ones() -> None:
    for dimension in DIMENSIONS:
        assert dimension in PAGE
    assert all(f"`{name}`" in PAGE for name in _FIXED)
    for command in re.findall(r"^    llmops gateway (\w+ \w+)", PAGE, re.MULTILINE):
        assert command in ("keys create", "keys list", "keys revoke")


def test_the_repository_s_own_job_is_the_page_s_example() -> None:
    own = yaml.safe_load((Path(__file__).parents[2] / "configs" / "gateway.yaml").read_text(encoding="utf-8"))
    assert own == yaml.safe_load(BLOCKS[0])
