"""What documents state about themselves: the same names and forms from every format, and nothing in doubt."""

from __future__ import annotations

import zipfile
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import documents

from llmops.rag.parse.extracted import Limits
from llmops.rag.parse.parse import parse_content
from llmops.rag.parse.read import Content
from llmops.rag.parse.stated import front_matter, stated

LIMITS = Limits(10_000_000, 1_000_000)


def facts(name: str, data: bytes) -> dict:
    found = parse_content(name, Content(data, "0" * 64), LIMITS).metadata
    return {key: found[key] for key in ("author", "date", "language", "tags") if key in found}


def test_front_matter_of_markdown() -> None:
    block = (
        "---\ntitle: Rivers\nauthor: [Ann, Bob]\ndate: 2024-03-05\nlang: en_GB\ntags: water\n---\n\n# Rivers\n\nText."
    )
    expected = {"author": ["Ann", "Bob"], "date": "2024-03-05", "language": "en-GB", "tags": ["water"]}
    assert facts("a.md", block.encode()) == expected
    parsed = parse_content("a.md", Content(block.encode(), "0" * 64), LIMITS)
    assert parsed.text == block, "the text, and so every offset, stays as it is"
    assert facts("a.md", block.replace("\n", "\r\n").encode()) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("---\nauthor: Ann\n", "---\n- a\n---\nx", "--- \nauthor: [unclosed\n---\nx", "text\n---\nauthor: Ann\n---\n"),
        "---\na: &a [x, x]\nb: &b [*a, *a]\nauthor: [*b, *b]\n---\ntext",
        "---\nauthor: {a: b}\ndate: 5th of May\nlang: no language at all\n---\ntext",
        "---\n" + "a: b\n" * 5000 + "author: Ann\n---\ntext",
        "---\n" + "[" * 3000 + "\n---\ntext",
    ],
)
def test_what_is_no_front_matter_states_nothing(text: str) -> None:
    assert front_matter(text) == {}


@given(st.text())
def test_no_block_breaks_the_reading(block: str) -> None:
    assert set(front_matter(f"---\n{block}\n---\n")) <= {"author", "date", "language", "tags"}


def test_a_page_of_the_web() -> None:
    head = '<meta name="author" content=" Ann  Lee ">'
    head += '<meta property="article:published_time" content="2024-03-05T10:00:00Z">'
    page = f'<html lang="de"><head><title>T</title>{head}</head><body><p>Some words here.</p></body></html>'
    assert facts("a.html", page.encode()) == {"author": "Ann Lee", "date": "2024-03-05", "language": "de"}
    assert facts("a.html", b"<html><body><p>Some words here.</p></body></html>") == {}


def test_the_properties_of_an_office_file() -> None:
    made = documents.docx(title="T", headings={"One": "Text."})
    with zipfile.ZipFile(BytesIO(made)) as archive:
        name = next(part for part in archive.namelist() if part.endswith("core.xml"))
    core = (
        '<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/">'
        "<dc:title>Plan</dc:title><dc:creator>Ann</dc:creator><dcterms:created>2024-03-05T09:00:00Z</dcterms:created>"
        "</cp:coreProperties>"
    )
    changed = documents.replace_part(made, name, core.encode())
    assert facts("a.docx", changed) == {"author": "Ann", "date": "2024-03-05"}


def test_the_information_of_a_pdf() -> None:
    made = documents.pdf(["Some text."], title="Plan")
    assert b"/Title" in made
    with_facts = made.replace(b"/Title", b"/Author (Ann) /CreationDate (D:20240305120000+01'00') /Title", 1)
    assert facts("a.pdf", with_facts) == {"author": "Ann", "date": "2024-03-05"}


@pytest.mark.parametrize(
    ("told", "day"),
    [
        *(("2024-03-05", "2024-03-05"), ("20240305", "2024-03-05"), ("D:20240305120000Z", "2024-03-05")),
        *(("2024-03-05 10:00", "2024-03-05"), ("2024-13-05", None), ("2024", None), ("05.03.2024", None), (None, None)),
        *(("0000-00-00", None), ("x" * 10_000, None)),
    ],
)
def test_a_day_is_iso_or_nothing(told: str | None, day: str | None) -> None:
    assert stated(day=told).get("date") == day
