"""Every job file of the page and of `configs/` can be copied: the product's own loader takes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmops.cli.jobs import any_job
from llmops.registry.gates.metrics import _KNOWN as METRICS
from llmops.registry.gates.questions import _SCORERS as SCORERS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
CONFIGS = [(ROOT / "configs" / f"{job}-fraud.yaml").read_text(encoding="utf-8") for job in ("validate", "compare")]


@pytest.mark.parametrize("text", [*BLOCKS, *CONFIGS])
def test_a_job_file_of_the_documentation_loads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    loaded = any_job(path).value
    assert loaded.job in {"validation", "comparison"}  # type: ignore[attr-defined]


def test_the_page_names_every_metric_and_scorer() -> None:
    assert len(BLOCKS) == 6
    assert [name for name in (*METRICS, *SCORERS) if f"`{name}`" not in PAGE] == []
