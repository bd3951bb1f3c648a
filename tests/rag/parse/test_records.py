"""Slides, JSON lines, notebooks, reStructuredText and source code: structure kept, characters kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rag.parse.test_parsers import parse
from tests.support import documents

from llmops.rag.config import ChunkingConfig
from llmops.rag.ingest.chunk import chunk
from llmops.rag.outline import outline
from llmops.rag.parse import media


def test_slides_are_pages_with_titles_lists_and_notes() -> None:
    slides = {"Pumps & valves": ["first", "  second"], "Oil": ["two drops"]}
    parsed = parse("a.pptx", documents.pptx(slides, title="Manual", notes="Say hello."))
    assert parsed.title == "Manual"
    assert [parsed.text[page.start : page.end] for page in parsed.pages] == [
        "# Pumps & valves\n\n- first\n  - second\n\nNotes: Say hello.",
        "# Oil\n\n- two drops",
    ]
    assert [(passage.page, passage.context) for passage in chunk(parsed, ChunkingConfig())] == [
        (1, "Manual > Pumps & valves"),
        (2, "Manual > Oil"),
    ]


def test_a_table_on_a_slide_stays_one_and_a_hidden_slide_is_not_read() -> None:
    slide = "<sld xmlns='x'{}><cSld><spTree><graphicFrame><tbl>{}</tbl></graphicFrame></spTree></cSld></sld>"
    rows = "".join(f"<tr><tc><p><t>{a}</t></p></tc><tc><p><t>{b}</t></p></tc></tr>" for a, b in ("ab", "12"))
    show = documents.pptx({"One": [], "Two": ["kept"]})
    table = documents.replace_part(show, "ppt/slides/slide1.xml", slide.format("", rows).encode())
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |" in parse("a.pptx", table).text
    hidden = documents.replace_part(show, "ppt/slides/slide1.xml", slide.format(" show='0'", rows).encode())
    parsed = parse("a.pptx", hidden)
    assert parsed.text.strip() == "# Two\n\n- kept"
    assert chunk(parsed, ChunkingConfig())[0].page == 2


def test_json_lines_keep_figures_and_nesting() -> None:
    data = '{"title": "Pump", "price": 1.50, "sizes": [1, 2, null], "parts": [{"new": true}]}\n\n{"text": "a\\n\\nb"}\n'
    parsed = parse("a.jsonl", data)
    assert parsed.text == "## Pump\n\nprice: 1.50; sizes: 1, 2; parts.1.new: true\n\ntext: a\n\nb"
    assert parsed.metadata == {"records": 2}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(record=st.dictionaries(st.sampled_from(["title", "name", "Subject", "x", "y"]), JSON, min_size=1, max_size=3))
def test_any_record_is_read(record: dict[str, object]) -> None:
    text = parse("a.jsonl", json.dumps(record) + '\n{"last": "the last one"}').text
    assert text.endswith("last: the last one")
    assert "\x00" not in text


def test_notebooks_keep_text_code_and_what_was_printed() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Pumps\n", "About *pumps*."]},
        {
            "cell_type": "code",
            "source": "x = 1  # not a heading",
            "outputs": [
                {"output_type": "stream", "text": ["one\n"]},
                {"output_type": "execute_result", "data": {"text/plain": "42", "text/html": "<b>42</b>"}},
                {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["long"]},
            ],
        },
    ]
    parsed = parse("a.ipynb", json.dumps({"cells": cells, "metadata": {"language_info": {"name": "python"}}}))
    assert parsed.title == "Pumps"
    assert parsed.text == (
        "# Pumps\nAbout *pumps*.\n\n```python\nx = 1  # not a heading\n```\n\n```\none\n42\nValueError: no\n```"
    )
    assert [heading.path for heading in outline(parsed).headings] == [("Pumps",)]


def test_a_long_output_is_cut() -> None:
    cell = {"cell_type": "code", "source": "x", "outputs": [{"output_type": "stream", "text": "y" * 100_000}]}
    assert len(parse("a.ipynb", json.dumps({"cells": [cell]})).text) < 5000


RST = """=====
Title
=====

Intro::

    literal
    # no comment

One :ref:`section <x>`
----------------------

.. include:: /etc/passwd

+---+---+
| a | b |
+---+---+

Deeper
~~~~~~
text

----

Two
---
end"""


def test_rst_keeps_its_characters_and_includes_nothing() -> None:
    parsed = parse("a.rst", RST)
    assert (parsed.text, parsed.title, parsed.media_type) == (RST, "Title", media.RST)
    found = outline(parsed)
    paths = [heading.path for heading in found.headings]
    assert paths == [
        ("Title",),
        ("Title", "One section"),
        ("Title", "One section", "Deeper"),
        ("Title", "Two"),
    ]
    assert [RST[start:end] for start, end in found.blocks] == [
        "Intro::\n\n    literal\n    # no comment",
        "+---+---+\n| a | b |\n+---+---+",
    ]


PYTHON = '''"""Doc."""
X = 1

# about pumps
@dataclass
class Pump:
    def start(self) -> None:
        return foo(1)

    async def stop(
        self,
    ) -> None:
        pass

if __name__ == "__main__":
    main()
'''
C = """#include <x.h>

/* starts it */
static int *start(struct pump *p,
    int speed)
{
    if (x) {
        foo(y);
    }
}
int main(int argc, char **argv) {
}
"""
JAVASCRIPT = """export default class Pump extends Base {
  constructor(a) {
    super(a);
  }
}
const run = async (a, b) => {
  each(a, () => {
  });
};
"""


@pytest.mark.parametrize(
    ("name", "code", "sections"),
    [
        (
            "a.py",
            PYTHON,
            {
                "# about pumps": ("class Pump",),
                "def start": ("class Pump", "def start"),
                "async def stop": ("class Pump", "def stop"),
                "if __name__": (),
            },
        ),
        ("a.c", C, {"/* starts it": ("start()",), "int main": ("main()",)}),
        (
            "a.js",
            JAVASCRIPT,
            {
                "export default": ("class Pump",),
                "constructor(a)": ("class Pump", "constructor()"),
                "const run": ("run()",),
            },
        ),
        ("a.go", "func (p *Pump) Start(a int) error {\n}\n", {"func (p": ("func (p *Pump) Start",)}),
        ("a.rs", "pub(crate) fn go<T>(x: T) {}\n", {"pub(crate)": ("fn go",)}),
        ("a.sql", "CREATE TABLE IF NOT EXISTS pumps (\n  id INT\n);\n", {"CREATE": ("TABLE pumps",)}),
        (
            "a.rb",
            "module Foo\n  def self.build(a)\n  end\nend\n",
            {"module": ("module Foo",), "def self": ("module Foo", "def self.build")},
        ),
        ("a.R", "area <- function(x) {\n}\n", {"area": ("area()",)}),
        ("a.java", "  public static void main(String[] a) throws X {\n  }\n", {"public": ("main()",)}),
    ],
)
def test_code_keeps_its_characters_and_has_sections(name: str, code: str, sections: dict[str, tuple[str, ...]]) -> None:
    parsed = parse(name, code)
    assert parsed.text == code
    assert parsed.media_type in media.CODE
    found = outline(parsed).headings
    assert [heading.path for heading in found] == list(sections.values())
    assert all(code.startswith(begins, heading.start) for begins, heading in zip(sections, found, strict=True))


LINES = st.lists(
    st.sampled_from(["=====", "-----", "Title", "  indented", "text::", ".. note::", "+--+", "== ==", "", "class A:",
                     "def f(x):", "    def g():", "}", "# remark", "int f(int a) {", "x = (a) => {", "\t@x", "é"])
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
    max_size=30,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(lines=LINES, kind=st.sampled_from([".rst", ".py", ".c", ".md"]), size=st.integers(50, 200))
def test_any_text_has_an_outline_and_passages_that_stand_in_it(lines: list[str], kind: str, size: int) -> None:
    text = "\n".join(["start", *lines])
    parsed = parse(f"a{kind}", text)
    assert parsed.text == text
    found = outline(parsed)
    starts = [heading.start for heading in found.headings]
    assert starts == sorted(set(starts))
    assert all(0 <= start < end <= len(text) for start, end in found.blocks)
    for passage in chunk(parsed, ChunkingConfig(size_chars=size)):
        assert text[passage.start : passage.end] == passage.text
