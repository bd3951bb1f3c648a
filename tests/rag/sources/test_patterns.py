"""Globs mean what people who write .gitignore files expect."""

from __future__ import annotations

import pytest

from llmops.rag.sources.patterns import Patterns, is_glob, split_base


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.md", "a.md", True),
        ("*.md", "x/y/a.md", True),
        ("*.md", "a.md.txt", False),
        ("x/*.md", "x/a.md", True),
        ("x/*.md", "x/y/a.md", False),
        ("x/*.md", "z/x/a.md", False),
        ("x/**/*.md", "x/a.md", True),
        ("x/**/*.md", "x/y/z/a.md", True),
        ("**/x/*.md", "x/a.md", True),
        ("x/", "x", True),
        ("x/", "x/a.md", True),
        ("x/", "z/x/a.md", True),
        ("x/", "xy/a.md", False),
        ("/x/**", "z/x/a.md", False),
        ("a?.md", "ab.md", True),
        ("a?.md", "a/.md", False),
        ("[a-c].md", "b.md", True),
        ("[!a-c].md", "b.md", False),
        ("[!a-c].md", "d.md", True),
        ("[!a]b", "/b", False),
        ("a[.md", "a[.md", True),
        ("(a|b)+.md", "(a|b)+.md", True),
        ("(a|b)+.md", "a.md", False),
        ("./a.md", "a.md", True),
        ("a\n.md", "a\n.md", True),
    ],
)
def test_pattern(pattern: str, path: str, matches: bool) -> None:
    assert Patterns([pattern]).match(path) is matches


def test_anchored_patterns_start_at_the_root() -> None:
    assert Patterns(["*.md"], anchored=True).match("a.md")
    assert not Patterns(["*.md"], anchored=True).match("x/a.md")


def test_no_pattern_matches_nothing() -> None:
    assert not Patterns([])
    assert not Patterns([]).match("")


@pytest.mark.parametrize(
    ("pattern", "base", "rest"),
    [("docs/**/*.md", "docs", "**/*.md"), ("*.md", ".", "*.md"), ("/*.md", "/", "*.md"), ("/a/b[1]/c", "/a", "b[1]/c")],
)
def test_split_base(pattern: str, base: str, rest: str) -> None:
    assert is_glob(pattern)
    assert split_base(pattern) == (base, rest)
