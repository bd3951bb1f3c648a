"""Documents of every kind, made on the spot: good ones, broken ones, and ones that mean harm."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmops.rag.document import Place, SourceItem

WORD_NAMESPACE = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def item(path: Path) -> SourceItem:
    """A file as a source would list it."""
    status = path.stat()
    return SourceItem(path.name, str(path), Place.of(str(path)), status.st_size, status.st_mtime_ns)


def pdf(pages: Sequence[str], title: str | None = None) -> bytes:
    from fpdf import FPDF

    document = FPDF()
    if title is not None:
        document.set_title(title)
    document.set_font("helvetica", size=11)
    for text in pages:
        document.add_page()
        if text:
            document.multi_cell(0, 6, text)
    return bytes(document.output())


def scanned_pdf() -> bytes:
    from fpdf import FPDF
    from PIL import Image

    document = FPDF()
    document.add_page()
    document.image(Image.new("L", (200, 280), color=128), x=0, y=0, w=200)
    return bytes(document.output())


def encrypted_pdf(password: str) -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf(["secret"]))))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def docx(*, title: str = "", headings: Mapping[str, str], table: Sequence[Sequence[str]] = ()) -> bytes:
    """A Word file with a paragraph under each heading (`## Sub` makes a second-level one)."""
    import docx as word

    document = word.Document()
    document.core_properties.title = title
    for heading, paragraph in headings.items():
        level = max(1, len(heading) - len(heading.lstrip("#")))
        document.add_heading(heading.lstrip("# "), level)
        document.add_paragraph(paragraph)
    if table:
        grid = document.add_table(rows=len(table), cols=len(table[0]))
        for y, row in enumerate(table):
            for x, cell in enumerate(row):
                grid.cell(y, x).text = cell
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def xlsx(
    sheets: Mapping[str, Sequence[Sequence[object]]],
    formats: Mapping[str, str] | None = None,
    merged: Mapping[str, str] | None = None,
    hidden: Sequence[str] = (),
) -> bytes:
    """A workbook by XlsxWriter, whose files are Excel's own to the byte.

    Args:
        formats: number formats of cells of the first sheet.
        merged: words of merged ranges of the first sheet.
    """
    import xlsxwriter  # type: ignore[import-untyped]

    out = io.BytesIO()
    with xlsxwriter.Workbook(out, {"in_memory": True, "default_date_format": "yyyy-mm-dd"}) as book:
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, row)
            if name in hidden:
                sheet.hide()
        first, rows = book.worksheets()[0], next(iter(sheets.values()))
        for cell, code in (formats or {}).items():
            column, number = ord(cell[0]) - 65, int(cell[1:]) - 1
            first.write(number, column, rows[number][column], book.add_format({"num_format": code}))
        for cells, words in (merged or {}).items():
            first.merge_range(cells, words)
    return out.getvalue()


def pptx(slides: Mapping[str, Sequence[str]], title: str = "", notes: str = "") -> bytes:
    """A presentation by python-pptx: slides with bullets, two blanks of indentation a level; notes on the first."""
    import pptx as powerpoint

    show = powerpoint.Presentation()
    show.core_properties.title = title
    for heading, bullets in slides.items():
        slide = show.slides.add_slide(show.slide_layouts[1])
        slide.shapes.title.text = heading
        frame = slide.placeholders[1].text_frame
        frame.text = "\n".join(bullet.strip() for bullet in bullets)
        for paragraph, bullet in zip(frame.paragraphs, bullets, strict=False):
            paragraph.level = (len(bullet) - len(bullet.lstrip())) // 2
    if notes:
        show.slides[0].notes_slide.notes_text_frame.text = notes
    out = io.BytesIO()
    show.save(out)
    return out.getvalue()


def picture(words: str, kind: str = "PNG", pages: int = 1) -> bytes:
    """Words on white, as a scanner would give them."""
    out = io.BytesIO()
    first = _drawn(words)
    more = {"save_all": True, "append_images": [first] * (pages - 1)} if pages > 1 else {}
    first.save(out, kind, **more)
    return out.getvalue()


def pdf_with_a_scan(text: str, scanned: str) -> bytes:
    """A page of text, then one that is a picture of words."""
    from fpdf import FPDF

    document = FPDF()
    document.set_font("helvetica", size=11)
    document.add_page()
    document.multi_cell(0, 6, text)
    document.add_page()
    document.image(_drawn(scanned), x=10, y=10, w=180)
    return bytes(document.output())


def _drawn(words: str) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (1400, 260), color=255)
    ImageDraw.Draw(image).text((40, 90), words, fill=0, font=ImageFont.load_default(56))
    return image


def replace_part(archive: bytes, name: str, content: bytes) -> bytes:
    """The same ZIP file with one part exchanged or added."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            if part.filename != name:
                target.writestr(part, source.read(part))
        target.writestr(name, content)
    return out.getvalue()


def docx_with_body(doctype: str, body: str, encoding: str = "utf-8") -> bytes:
    """A Word file whose main part has this document type declaration and this paragraph."""
    xml = (
        f'<?xml version="1.0" encoding="{encoding}"?>{doctype}<w:document xmlns:w="{WORD_NAMESPACE}"><w:body>'
        f"<w:p><w:r><w:t>{body}</w:t></w:r></w:p></w:body></w:document>"
    )
    return replace_part(docx(headings={"Good": "text"}), "word/document.xml", xml.encode(encoding))


def sparse(path: Path, size: int) -> Path:
    """A file that claims `size` bytes and takes none."""
    with path.open("wb") as file:
        file.truncate(size)
    return path
