"""Documents of every kind, made on the spot: good ones, broken ones, and ones that mean harm."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmops.rag.document import SourceItem

WORD_NAMESPACE = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def item(path: Path) -> SourceItem:
    """A file as a source would list it."""
    status = path.stat()
    return SourceItem(path.name, str(path), status.st_size, status.st_mtime_ns)


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
