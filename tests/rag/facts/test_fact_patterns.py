"""Facts that paths and headings spell out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmops.core.state import StateConfig
from llmops.rag.config import BucketSource, FolderSource
from llmops.rag.document import SourceItem
from llmops.rag.facts.patterns import FactPattern, FactPatterns
from llmops.rag.sources import documents


@pytest.mark.parametrize(
    ("pattern", "text", "facts"),
    [
        ("{team}/{year:int}/**", "Sales/2024/q3/plan.md", {"team": "Sales", "year": 2024}),
        ("{team}/{year:int}/**", "Sales/old/plan.md", {}),
        ("**/{day:date}-{kind}.md", "a/b/2024-03-05-minutes.md", {"day": "2024-03-05", "kind": "minutes"}),
        ("**/{day:date}-{kind}.md", "2024-13-05-minutes.md", {}),
        ("{team}/*", "sales/2024/plan.md", {}),
        (
            "Minutes of {body}, {day:date}",
            "MINUTES of the Board, 2024-03-05",
            {"body": "the Board", "day": "2024-03-05"},
        ),
        ("v{version}.*", "v1.2.md", {"version": "1"}),
    ],
)
def test_a_pattern_reads_what_it_names(pattern, text, facts):
    assert FactPattern(pattern).read(text) == facts


def test_of_two_patterns_the_first_is_believed_and_each_adds_what_it_knows():
    patterns = FactPatterns(["{team}/**", "{area}/{year:int}/*", "**/{team}.md"])
    assert patterns.read("sales/2024/x.md") == {"team": "sales", "area": "sales", "year": 2024}
    assert patterns.read("none", "y.md") == {"team": "y"}


@pytest.mark.parametrize("pattern", ["docs/**", "{a}/{a}", "{a:float}", "{9}"])
def test_a_pattern_that_is_none_is_refused_with_the_configuration(pattern):
    with pytest.raises(ValidationError):
        FolderSource(path="docs", facts_from_path=(pattern,))


@given(st.text(max_size=60))
def test_whatever_the_text_a_pattern_reads_short_texts_or_nothing(text):
    for name, value in FactPatterns(["{a}/**/{b:int}-{c:date}*", "{d}"]).read(text).items():
        assert isinstance(value, str | int)
        assert name in "abcd"


def test_sources_tell_facts_by_the_path_within_them(tmp_path: Path):
    (tmp_path / "docs/sales/2024").mkdir(parents=True)
    (tmp_path / "docs/sales/2024/plan.md").write_text("a plan")
    told = {"facts_from_path": ("{team}/{year:int}/*",), "metadata": {"year": 1999}}
    state = StateConfig(dir=tmp_path / "state")
    for source in (
        FolderSource(path=str(tmp_path / "docs"), **told),
        FolderSource(path=str(tmp_path / "docs/**/*.md"), **told),
        BucketSource(bucket=f"file://{tmp_path}/docs", **told),
    ):
        (item,) = documents(source, state)
        assert isinstance(item, SourceItem)
        assert item.metadata == {"team": "sales", "year": 1999}, "what the configuration says stands above"
    renamed = BucketSource(bucket=f"file://{tmp_path}/docs", facts_from_path=("{area}/**",))
    (item,) = documents(renamed, state)
    assert isinstance(item, SourceItem)
    assert item.metadata == {"area": "sales"}, "a fact that no pattern tells any more is gone"
