"""Text quality of the parsers: texts that are known are put into each format, read back, and compared with themselves.

The texts are chunk_eval's where LLMOPS_DATA holds it, and the questions' answers must then stand in what was read word
for word. The same files are read by the bare libraries.
"""

from __future__ import annotations

import io
import json
import re
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from html import escape
from pathlib import Path

from llmops.rag.parse.extracted import Limits
from llmops.rag.parse.parse import parse_content
from llmops.rag.parse.read import Content

CHARS_A_TEXT = 40_000
EPOCH, FIRST_DAY = date(1899, 12, 30), date(2025, 1, 1)
_LIMITS = Limits(max_bytes=200_000_000, max_text_chars=50_000_000)
_WORD = re.compile(r"[\w%]+(?:\.\d+)*")
_MENU = "<nav><ul>" + "".join(f'<li><a href="/{n}">Section {n}</a></li>' for n in range(30)) + "</ul></nav>"
_FOOTER = "<footer><p>All rights reserved. Cookie settings. Imprint. Privacy notice.</p></footer>"


@dataclass(frozen=True)
class Golden:
    """A text as paragraphs, and what must be found in it."""

    name: str
    paragraphs: list[str]
    answers: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.paragraphs)


@dataclass(frozen=True)
class Quality:
    kind: str
    reader: str
    precision: float
    recall: float
    answers: float

    @property
    def f1(self) -> float:
        return 2 * self.precision * self.recall / max(self.precision + self.recall, 1e-9)


def load(folder: Path) -> list[Golden]:
    """The beginnings of chunk_eval's documents with the answers that lie in them, in characters every font has."""
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    goldens = []
    for path in sorted((folder / "docs").glob("*.md")):
        text = path.read_bytes().decode()[:CHARS_A_TEXT]
        spans = [span for query in queries if query["corpus_id"] == path.stem for span in query["references"]]
        answers = [
            _latin(text[span["start_index"] : span["end_index"]]) for span in spans if span["end_index"] <= len(text)
        ]
        paragraphs = [" ".join(_latin(part).split()) for part in text.split("\n") if part.strip()]
        goldens.append(Golden(path.stem, paragraphs, answers))
    return goldens


def _latin(text: str) -> str:
    """Characters that the fonts built into PDF have; a mark of Markdown at the start of a line is none of the words."""
    plain = text.translate(
        {0x2019: "'", 0x2018: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-", 0x2014: "-", 0x2026: "..."}
    )
    return plain.encode("latin-1", errors="ignore").decode("latin-1").replace("\u00ad", "")


def rows_of(golden: Golden) -> list[list[str]]:
    """The paragraphs as a document has them: most alone, every fifth beside the next one in a table."""
    rows, place = [], 0
    while place < len(golden.paragraphs):
        width = 2 if len(rows) % 5 == 4 else 1
        rows.append(golden.paragraphs[place : place + width])
        place += width
    return rows


def as_pdf(golden: Golden) -> bytes:
    """Lines that divide long words at their ends, as typesetters do."""
    from fpdf import FPDF

    document = FPDF()
    document.set_font("helvetica", size=9)
    document.add_page()
    for paragraph in golden.paragraphs:
        lines = textwrap.wrap(paragraph, 95)
        for place in range(len(lines) - 1):
            word, blank, rest = lines[place + 1].partition(" ")
            if blank and word.islower() and word.isalpha() and len(word) > 7:
                lines[place] += f" {word[:4]}-"
                lines[place + 1] = f"{word[4:]} {rest}"
        document.multi_cell(0, 4, "\n".join(lines), new_x="LMARGIN", new_y="NEXT")
    return bytes(document.output())


def as_html(golden: Golden) -> bytes:
    parts = []
    for row in rows_of(golden):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        parts.append(f"<table><tr>{cells}</tr></table>" if len(row) > 1 else f"<p>{escape(row[0])}</p>")
    head = f"<head><meta charset='utf-8'><title>{golden.name}</title></head>"
    body = f"{_MENU}<main><h1>{golden.name}</h1>{''.join(parts)}</main>{_FOOTER}"
    return f"<html>{head}<body>{body}</body></html>".encode()


def as_docx(golden: Golden) -> bytes:
    import docx

    document = docx.Document()
    for row in rows_of(golden):
        if len(row) == 1:
            document.add_paragraph(row[0])
            continue
        table = document.add_table(rows=1, cols=2)
        for cell, words in zip(table.rows[0].cells, row, strict=True):
            cell.text = words
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def as_pptx(golden: Golden) -> bytes:
    """Bullets, tables, and every seventh paragraph said in the speaker's notes."""
    import pptx

    show = pptx.Presentation()
    for number, row in enumerate(rows_of(golden)):
        slide = show.slides.add_slide(show.slide_layouts[1])
        if len(row) > 1:
            table = slide.shapes.add_table(1, 2, 0, 0, 9_000_000, 1_000_000).table
            for column, words in enumerate(row):
                table.cell(0, column).text = words
        elif number % 7 == 6:
            slide.notes_slide.notes_text_frame.text = row[0]
        else:
            slide.placeholders[1].text_frame.text = row[0]
    out = io.BytesIO()
    show.save(out)
    return out.getvalue()


def as_xlsx(golden: Golden) -> bytes:
    """A paragraph, a share and a day in each row, formatted as people format them."""
    import xlsxwriter  # type: ignore[import-untyped]

    out = io.BytesIO()
    with xlsxwriter.Workbook(out, {"in_memory": True, "strings_to_urls": False, "strings_to_formulas": False}) as book:
        sheet = book.add_worksheet("Sheet")
        percent, day = book.add_format({"num_format": "0%"}), book.add_format({"num_format": "dd.mm.yyyy"})
        for number, paragraph in enumerate(golden.paragraphs):
            sheet.write_string(number, 0, paragraph)
            sheet.write_number(number, 1, number % 100 / 100, percent)
            sheet.write_number(number, 2, FIRST_DAY.toordinal() - EPOCH.toordinal() + number % 300, day)
    return out.getvalue()


def shown_in_xlsx(golden: Golden) -> list[str]:
    """The figures that a person sees in the sheet."""
    days = (FIRST_DAY + timedelta(days=number % 300) for number in range(len(golden.paragraphs)))
    return [f"{number % 100}% {day:%d.%m.%Y}" for number, day in enumerate(days)]


def by_pypdfium2(data: bytes) -> str:
    import pypdfium2

    document = pypdfium2.PdfDocument(data)
    text = "\n".join(page.get_textpage().get_text_range() for page in document)
    document.close()
    return text


def by_trafilatura(data: bytes) -> str:
    import trafilatura

    return trafilatura.extract(data, include_comments=False) or ""


def by_python_docx(data: bytes) -> str:
    import docx

    return "\n".join(paragraph.text for paragraph in docx.Document(io.BytesIO(data)).paragraphs)


def by_python_pptx(data: bytes) -> str:
    import pptx

    slides = pptx.Presentation(io.BytesIO(data)).slides
    return "\n".join(shape.text_frame.text for slide in slides for shape in slide.shapes if shape.has_text_frame)


def by_openpyxl(data: bytes) -> str:
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    rows = (row for sheet in book.worksheets for row in sheet.iter_rows(values_only=True))
    return "\n".join(" ".join(str(cell) for cell in row if cell is not None) for row in rows)


KINDS: dict[str, tuple[Callable[[Golden], bytes], str, Callable[[bytes], str]]] = {
    "pdf": (as_pdf, "pypdfium2", by_pypdfium2),
    "html": (as_html, "trafilatura", by_trafilatura),
    "docx": (as_docx, "python-docx", by_python_docx),
    "pptx": (as_pptx, "python-pptx", by_python_pptx),
    "xlsx": (as_xlsx, "openpyxl", by_openpyxl),
}


def qualities(goldens: list[Golden]) -> list[Quality]:
    """Each format by our parser and by the bare library, over all texts."""
    found = []
    for kind, (write, library, bare) in KINDS.items():
        files = [(golden, write(golden)) for golden in goldens]
        if kind == "xlsx":
            files = [(replace(g, paragraphs=[*g.paragraphs, *shown_in_xlsx(g)]), data) for g, data in files]
        readers = {
            "llmops": lambda data, name=f"a.{kind}": parse_content(name, Content(data, ""), _LIMITS).text,
            library: bare,
        }
        for reader, read in readers.items():
            found.append(_quality(kind, reader, [(golden, read(data)) for golden, data in files]))
    return found


def _quality(kind: str, reader: str, pairs: list[tuple[Golden, str]]) -> Quality:
    kept = got = wanted = answered = asked = 0
    for golden, text in pairs:
        ours, theirs = Counter(_WORD.findall(text)), Counter(_WORD.findall(golden.text))
        kept += (ours & theirs).total()
        got += ours.total()
        wanted += theirs.total()
        squeezed = "".join(text.split())
        answered += sum("".join(answer.split()) in squeezed for answer in golden.answers)
        asked += len(golden.answers)
    return Quality(kind, reader, kept / max(got, 1), kept / max(wanted, 1), answered / max(asked, 1))


def print_table(found: list[Quality]) -> None:
    print(
        "\nText quality on the beginnings of chunk_eval's texts, written into each format (words divided at line ends,"
    )
    print(
        "tables, notes, formatted figures) and read back: words kept, and answers that stand in the text character for"
    )
    print("character, blanks aside.\n")
    print("| format | reader | word F1 | precision | recall | answers |\n|---|---|---:|---:|---:|---:|")
    for row in found:
        print(
            f"| {row.kind} | {row.reader} | {row.f1:.3f} | {row.precision:.3f} | {row.recall:.3f} | {row.answers:.3f} |"
        )
