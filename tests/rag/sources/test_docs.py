"""The sources of the documentation load, each as what it is."""

from __future__ import annotations

import re
from pathlib import Path

from llmops.core.config import load_config
from llmops.rag.config import RagConfig
from llmops.rag.sources.acl import Rules

PAGE = (Path(__file__).parents[3] / "docs/sources.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_documented_sources_load(tmp_path: Path) -> None:
    path = tmp_path / "rag.yaml"
    path.write_text(BLOCKS[0])
    sources = load_config(RagConfig, path).value.index.sources
    kinds = [type(source).__name__.removesuffix("Source") for source in sources]
    assert kinds == ["Folder", "Git", "Web", "Web", "Bucket", "Query", "Table"]


def test_the_documented_access_file_says_what_the_page_says() -> None:
    rules = Rules.read(BLOCKS[1].encode(), ("everyone",), "docs/sources.md")
    assert rules.groups("a.md") == ("staff",)
    assert rules.groups("hr/pay.md") == ("hr", "board")
