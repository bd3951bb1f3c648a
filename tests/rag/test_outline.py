"""Headings and whole blocks as CommonMark has them, as far as cutting needs them."""

from __future__ import annotations

import pytest

from llmops.rag.outline import markdown_outline
from llmops.rag.outline.code import code_outline


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("# A\ntext\n## B\n# C\n", [("A",), ("A", "B"), ("C",)]),
        ("#### Deep first\n## Then higher\n", [("Deep first",), ("Then higher",)]),
        ("Title\n=====\n\nSub\n---\ntext", [("Title",), ("Title", "Sub")]),
        ("# C# and F#\n## Closed ##\n", [("C# and F#",), ("C# and F#", "Closed")]),
        ("   # Three spaces\n\n    # code\n", [("Three spaces",)]),
        ("#no space\n#\n####### seven\n", []),
        ("# \n", [()]),
        ("- item\n---\n1. item\n---\n\n---\n* * *\n---\n", []),
        ("| a | b |\n|---|---|\n| # c | d |\n", []),
        ("a | b\n--- | ---\n", []),
        ("# A\r\n\r\nB\r\n===\r\n", [("A",), ("B",)]),
        ("```\n# code\n```\n# A\n", [("A",)]),
        ("````\n```\n# code\n````\n# A\n", [("A",)]),
        ("~~~\n```\n# code\n~~~\n# A\n", [("A",)]),
        ("```\n# never closed\n", []),
        ("``` inline ```\n# A\n", [("A",)]),
        ("- item\n  ```\n  # code\n  ```\n# A\n", [("A",)]),
        ("> ```\n> # code\n> ```\n# A\n", [("A",)]),
        ("---\n# front: matter\n---\n# A\n", [("A",)]),
        ("---\nnot closed\n# A\n", [("A",)]),
        ("# [Link](x) and `code` of snake_case {#anchor}\n", [("Link and code of snake_case",)]),
        ("# A\n\nB\n", [("A",)]),
        ("# last", [("last",)]),
    ],
)
def test_headings(text: str, paths: list[tuple[str, ...]]) -> None:
    assert [heading.path for heading in markdown_outline(text).headings] == paths


def test_places() -> None:
    text = "intro\n\n# A\n\ntext a\n\n## B\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\n```\ncode\n```\nend"
    found = markdown_outline(text)
    assert [text[heading.start :].split("\n", maxsplit=1)[0] for heading in found.headings] == ["# A", "## B"]
    assert [text[heading.below :].split("\n", maxsplit=1)[0] for heading in found.headings] == ["text a", "| x | y |"]
    assert [text[start:end] for start, end in found.blocks] == [
        "| x | y |\n|---|---|\n| 1 | 2 |",
        "```\ncode\n```",
    ]
    assert found.path_at(text.index("intro")) == ()
    assert found.path_at(text.index("text a")) == ("A",)
    assert found.path_at(text.index("end")) == ("A", "B")
    assert found.next_heading(0) == text.index("# A")
    assert found.next_heading(text.index("## B")) is None
    assert found.block_at(text.index("| 1 |")) == found.blocks[0]
    assert found.block_at(text.index("| x |")) is None  # a cut at its very beginning splits nothing


@pytest.mark.parametrize(
    "text",
    [
        "x" + " " * 1_000_000 + "\ndef last():\n",
        "x" + "\t" * 1_000_000 + "\ndef last():\n",
        "a " + "&&& " * 95 + "\ndef last():\n",
        "a " + "*& " * 130 + "\ndef last():\n",
    ],
    ids=["blanks", "tabs", "ands", "stars"],
)
def test_code_that_is_built_to_take_for_ever_is_read_at_once(text: str) -> None:
    """Code is read in the process that refreshes, where no clock ends it: blanks took an hour, stars for ever."""
    assert [heading.path for heading in code_outline(text).headings] == [("def last",)]


def test_a_pointer_is_no_part_of_a_name() -> None:
    text = "static char *\nname(int a) {\n}\nchar **words(char &line) {\n}\nstd::vector<int> &Pump::flow() {\n}\n"
    assert [heading.path[-1] for heading in code_outline(text).headings] == ["name()", "words()", "Pump::flow()"]
