"""What each format's text looks like: nothing lost, structure kept, nothing executed, pages where they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml.html import document_fromstring  # type: ignore[import-untyped]
from tests.support import documents

from llmops.rag.config import ChunkingConfig, ParsingConfig
from llmops.rag.document import Parsed, Place, RefusedDocumentError
from llmops.rag.ingest.chunk import chunk
from llmops.rag.outline import outline
from llmops.rag.parse import media
from llmops.rag.parse.extracted import Limits
from llmops.rag.parse.markup import Markup
from llmops.rag.parse.parse import fingerprint, parse_content, parse_file
from llmops.rag.parse.read import Content
from llmops.rag.parse.visible import write_visible

LIMITS = Limits(max_bytes=10_000_000, max_text_chars=1_000_000)


def parse(name: str, data: bytes | str) -> Parsed:
    return parse_content(name, Content(data if isinstance(data, bytes) else data.encode(), "0" * 64), LIMITS)


def test_pdf_pages_and_title() -> None:
    pages = ["First page about pumps.", "", "Third page about valves."]
    parsed = parse("a.pdf", documents.pdf(pages, title="Pump manual"))
    assert parsed.media_type == media.PDF
    assert parsed.title == "Pump manual"
    assert [page.number for page in parsed.pages] == [1, 2, 3]
    assert [parsed.text[page.start : page.end] for page in parsed.pages] == pages
    assert parsed.metadata.items() >= {"pages": 3, "pages_without_text": 1}.items()
    assert [(passage.page, passage.text) for passage in chunk(parsed, ChunkingConfig())] == [
        (1, pages[0]),
        (3, pages[2]),
    ]


@pytest.mark.parametrize("named", [None, "untitled", "Microsoft Word - x.docx", "report.pdf", " "])
def test_pdf_without_a_title_of_its_own_takes_its_first_line(named: str | None) -> None:
    assert parse("a.pdf", documents.pdf(["Annual report\nWe grew."], title=named)).title == "Annual report"


def test_pdf_words_divided_at_line_ends_are_whole_again() -> None:
    text = parse("a.pdf", documents.pdf(["a divi-\nded word, a state-of-the-\nart pump, 2020-\n2021"])).text
    assert text.replace("-\n2021", "-2021") == "a divided word, a state-of-the-art pump, 2020-2021"


def test_pdf_text_is_bounded_while_it_is_read() -> None:
    with pytest.raises(RefusedDocumentError) as refusal:
        parse_content("a.pdf", Content(documents.pdf(["word " * 100] * 3), ""), Limits(10_000_000, 800))
    assert refusal.value.error_code == "too_much_text"


def test_docx_headings_lists_tables() -> None:
    data = documents.docx(
        title="Leave policy",
        headings={"# Holidays": "Everyone has 28 days.", "## Carry over": "# Five days may be kept."},
        table=[["Grade", "Days"], ["A", "28"]],
    )
    parsed = parse("a.docx", data)
    assert parsed.title == "Leave policy"
    assert [heading.path for heading in outline(parsed).headings] == [("Holidays",), ("Holidays", "Carry over")]
    assert "| Grade | Days |\n| --- | --- |\n| A | 28 |" in parsed.text
    assert "\\# Five days may be kept." in parsed.text


def test_docx_loses_no_character() -> None:
    """Word for word what python-docx, which writes the file, reads from it."""
    words = "If x < 3 & y > 4:\tAT&T's <script>alert(1)</script>\nnext line – “quoted” 日本 e\u0301"
    assert words in parse("a.docx", documents.docx(headings={"Rule": words})).text


def docx_body(xml: str) -> Parsed:
    body = f'<w:document xmlns:w="{documents.WORD_NAMESPACE}"><w:body>{xml}</w:body></w:document>'
    return parse("a.docx", documents.replace_part(documents.docx(headings={}), "word/document.xml", body.encode()))


@pytest.mark.parametrize(
    ("xml", "text"),
    [
        ("<w:p><w:r><w:t>kept</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>", "kept"),
        (
            "<w:p><w:ins><w:r><w:t>added</w:t></w:r></w:ins><w:moveFrom><w:r><w:t>x</w:t></w:r></w:moveFrom></w:p>",
            "added",
        ),
        ("<w:sdt><w:sdtContent><w:p><w:r><w:t>in a control</w:t></w:r></w:p></w:sdtContent></w:sdt>", "in a control"),
        ("<w:p><w:hyperlink><w:r><w:t>link</w:t></w:r></w:hyperlink><w:r><w:t>ed</w:t></w:r></w:p>", "linked"),
        ('<w:p><w:pPr><w:outlineLvl w:val="1"/></w:pPr><w:r><w:t>Level two</w:t></w:r></w:p>', "## Level two"),
        ('<w:p><w:pPr><w:pStyle w:val="Heading3"/></w:pPr><w:r><w:t>Three</w:t></w:r></w:p>', "### Three"),
        ('<w:p><w:pPr><w:pStyle w:val="ListBullet"/></w:pPr><w:r><w:t>one</w:t></w:r></w:p>' * 2, "- one\n- one"),
        ("<w:tbl><w:tr><w:tc><w:p><w:r><w:t>framed</w:t></w:r></w:p></w:tc></w:tr></w:tbl>", "framed"),
    ],
)
def test_docx_structure(xml: str, text: str) -> None:
    assert docx_body(xml).text == text


def test_docx_without_a_title_takes_its_first_heading() -> None:
    assert parse("a.docx", documents.docx(headings={"Holidays": "28 days."})).title == "Holidays"


HTML = """<!DOCTYPE html><html><head><title>Oiling widgets | ACME</title><style>p {color: red}</style></head><body>
<nav><a href="/">Home</a><a href="/shop">Shop</a></nav><main><h1>Oiling widgets</h1>
<p>Widgets last for ten years if they are oiled every month with the right oil, which is made of olives.</p>
<script>document.write("stolen")</script><!-- a comment -->
<h2>How much</h2><p>Two drops. Never write &lt;script&gt;alert(1)&lt;/script&gt; on a widget, and wipe off the rest.</p>
<ul><li>one drop<ul><li>left side</li></ul></li><li>two drops</li></ul>
<table><tr><th>Size</th><th>Oil</th></tr><tr><td>S</td><td>1 ml</td></tr></table>
<pre>x = 1
y = 2</pre><p onclick="steal()">Wear <b>gloves</b>.</p></main><footer>Imprint</footer></body></html>"""


def test_html_keeps_structure_and_runs_nothing() -> None:
    parsed = parse("a.html", HTML)
    assert parsed.title == "Oiling widgets"
    assert [heading.path[-1] for heading in outline(parsed).headings] == ["Oiling widgets", "How much"]
    assert "- one drop\n  - left side\n- two drops" in parsed.text
    assert "| Size | Oil |\n| --- | --- |\n| S | 1 ml |" in parsed.text
    assert "x = 1\ny = 2" in parsed.text
    assert "<script>alert(1)</script>" in parsed.text  # the text said so; it is data, and only data
    assert "Wear gloves." in parsed.text
    for word in ("stolen", "steal", "comment", "color", "Shop"):
        assert word not in parsed.text


def test_html_in_which_no_article_is_found_gives_all_that_is_visible() -> None:
    page = (
        "<html><title>Form</title><body><h2>Leave</h2><form><label>Days<input></label><div>from<br>to</div></form>tail"
    )
    parsed = parse("a.html", page)
    assert parsed.title == "Form"
    assert all(word in parsed.text.split() for word in ("Leave", "Days", "from", "to", "tail"))


REFERENCE = "".join(
    f'<section><h3><a href="#f{n}">fn f{n}()</a></h3><a href="/{n}">f{n}</a></section>' for n in range(60)
)


def test_html_whose_main_part_is_marked_keeps_all_of_it() -> None:
    menu = "<nav><a href='/'>Shop</a></nav>"
    main = f"<main><h1>Functions</h1><p>All functions.</p>{REFERENCE}</main>"
    parsed = parse("a.html", f"<title>Functions - Docs</title>{menu}{main}<p>imprint</p>")
    assert parsed.title == "Functions"
    for number in range(60):
        assert f"### fn f{number}()\n\nf{number}" in parsed.text
    assert "Shop" not in parsed.text
    assert "imprint" not in parsed.text


VISIBLE = """<main><h2>A <code>b</code></h2>loose <b>words</b><br>next line
<ul><li>one<ol><li>inner</li></ol></li><li><p>two</p></li></ul>
<table><tr><th>x</th><th>y</th></tr><tr><td>1</td><td><p>2</p><p>3</p></td></tr></table><pre>a
      b</pre><table><tr><td>only framed</td></tr></table>
<p hidden>secret</p><p># no heading</p><button>Buy</button></main>"""


def test_html_visible_structure() -> None:
    markup = Markup()
    write_visible(document_fromstring(VISIBLE), markup)
    blocks = ("## A b", "loose words\nnext line", "- one\n  - inner\n- two", "| x | y |\n| --- | --- |\n| 1 | 2 3 |")
    assert markup.text() == "\n\n".join((*blocks, "```\na\n      b\n```", "only framed", "\\# no heading"))


@pytest.mark.parametrize(
    ("head", "title"),
    [
        ("<title>Pumps | ACME</title><h1>Pumps</h1>", "Pumps"),
        ("<title>Pumps - ACME</title><h1>ACME</h1><h1>Pumps</h1>", "Pumps - ACME"),
        ("<h1> </h1><h1>Only\n heading</h1>", "Only heading"),
        ("<title>Only tab</title>", "Only tab"),
        ("<h2>Second level</h2>", "Second level"),
    ],
)
def test_html_title(head: str, title: str) -> None:
    assert parse("a.html", f"{head}<p>Some text that is there.</p>").title == title


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ('<meta charset="iso-8859-1"><p>Größe</p>'.encode("cp1252"), "Größe"),
        ('<meta charset="shift_jis"><p>日本語の文書</p>'.encode("shift_jis"), "日本語の文書"),
        ('<meta charset="utf-16"><p>Größe</p>'.encode(), "Größe"),
        ("<p>Größe</p>".encode("utf-16"), "Größe"),
        ('<?xml version="1.0" encoding="utf-8"?><html><body><p>Größe</p></body></html>'.encode(), "Größe"),
    ],
)
def test_html_encodings(data: bytes, word: str) -> None:
    assert word in parse("a.html", data).text


def test_html_that_would_be_read_in_part_only_is_refused() -> None:
    with pytest.raises(RefusedDocumentError, match="too deep"):
        parse("a.html", "<p>shallow</p>" + "<div>" * 100_000 + "deep")
    assert "deep" in parse("a.html", "<p>shallow</p>" + "<div>" * 100 + "deep").text


def test_markdown_and_text_stay_as_they_are(tmp_path: Path) -> None:
    text = "# Title\r\n\r\n<script>alert(1)</script>\tand &amp; *marks*\r\n"
    for name in ("a.md", "a.txt", "a.MARKDOWN"):
        path = tmp_path / name
        path.write_bytes(text.encode())
        assert parse_file(str(path), Place.of(str(path)), LIMITS).text == text


@pytest.mark.parametrize(
    ("name", "data", "media_type"),
    [
        ("a.txt", documents.pdf(["really a PDF"]), media.PDF),
        ("no_extension", b"just text", media.PLAIN),
        ("a.bin", documents.docx(headings={"Really": "a Word file"}), media.DOCX),
        ("notes.md", b"The header of a PDF is %PDF-1.7, says the standard.", media.MARKDOWN),
        ("notes.txt", b"A ZIP file begins with PK", media.PLAIN),
    ],
)
def test_content_decides_over_the_name(name: str, data: bytes, media_type: str) -> None:
    assert parse(name, data).media_type == media_type


def test_the_fingerprint_names_every_parser() -> None:
    assert set(fingerprint(ParsingConfig())) == {"parser", "pypdfium2", "trafilatura", "lxml"}
