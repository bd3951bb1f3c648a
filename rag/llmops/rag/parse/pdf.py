"""PDF to text with pages, by PDFium: 7 ms a page, table rows kept in lines (measured against five others).

Knows page text and the document's own title. It runs no script, opens no attachment and fetches nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pypdfium2
import pypdfium2.raw as pdfium_c

from llmops.rag.document import CODES, RefusedDocumentError
from llmops.rag.parse.extracted import Extracted, Limits, paged, printable
from llmops.rag.parse.stated import stated
from llmops.rag.parse.text import first_line_title, tidy_title

if TYPE_CHECKING:
    from llmops.rag.parse.ocr import Reader

_HYPHENATED = re.compile(r"[\x02\ufffe]\s?(?=\w)")
"""PDFium's mark for a hyphen that only divides a word at the end of a line."""
_NO_TITLE = re.compile(
    r"(untitled|microsoft (word|powerpoint)).*|document\d*|title|.*\.(docx?|pdf|tex|dvi|indd|pptx?|odt|rtf|html?)", re.I
)
_WORD_CHARS = 40
_POINTS_PER_INCH = 72
_DOTS_PER_INCH = 300
"""What the engine's models were trained on."""
_MAX_SIDE = 10_000


def extract(data: bytes, limits: Limits) -> Extracted:
    """The text of every page in order.

    Raises:
        RefusedDocumentError: `encrypted`, `broken`, `scanned_only`, `ocr_missing`, `empty` or `too_much_text`.
    """
    document = _open(data)
    try:
        texts = _page_texts(document, limits)
        scanned = [number for number, text in enumerate(texts) if not text and _has_pictures(document[number])]
        read = _read_scanned(document, scanned, texts, limits) if scanned else 0
        if not any(texts):
            raise _nothing(scanned, limits)
        held = document.get_metadata_dict()
        learned = stated(author=held.get("Author"), day=held.get("CreationDate"))
        if read:
            learned["pages_read_by_ocr"] = read
        return _assemble(texts, str(held.get("Title") or ""), learned)
    except pypdfium2.PdfiumError as error:
        raise RefusedDocumentError("broken", f"the PDF is damaged: {error}") from error
    finally:
        document.close()


def _open(data: bytes) -> Any:
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) in (pdfium_c.FPDF_ERR_PASSWORD, pdfium_c.FPDF_ERR_SECURITY):
            raise RefusedDocumentError("encrypted") from error
        raise RefusedDocumentError("broken", f"the PDF cannot be opened: {error}") from error
    if len(document) == 0:
        document.close()
        raise RefusedDocumentError("empty", "the PDF has no pages")
    return document


def _page_texts(document: Any, limits: Limits) -> list[str]:
    texts = []
    total = 0
    for number in range(len(document)):
        page = document[number]
        text_page = page.get_textpage()
        text = _tidy(text_page.get_text_range())
        text_page.close()
        page.close()
        total += len(text)
        if total > limits.max_text_chars:
            raise RefusedDocumentError(
                "too_much_text", f"more than {limits.max_text_chars:,} characters by page {number + 1}"
            )
        texts.append(text)
    return texts


def _tidy(text: str) -> str:
    """Plain line ends, divided words whole again, no blanks at the ends of lines."""
    lines = _HYPHENATED.sub(_join, text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
    return printable("\n".join(line.rstrip() for line in lines).strip())


def _join(mark: re.Match[str]) -> str:
    """A hyphen that divides a word goes; one that belongs to a compound (state-of-the-art) or a number stays."""
    before = mark.string[max(0, mark.start() - _WORD_CHARS) : mark.start()].split()
    after = mark.string[mark.end() : mark.end() + 1]
    divides = after.islower() and bool(before) and before[-1][-1:].islower() and "-" not in before[-1]
    return "" if divides else "-"


def _has_pictures(page: Any) -> bool:
    found = next(page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE], max_depth=3), None) is not None
    page.close()
    return found


def _nothing(scanned: list[int], limits: Limits) -> RefusedDocumentError:
    if not scanned:
        return RefusedDocumentError("empty")
    if limits.ocr is not None:
        return RefusedDocumentError("scanned_only", "the pages are pictures in which no text was found")
    return RefusedDocumentError("scanned_only", f"{CODES['scanned_only']}; `parsing.ocr: auto` reads them")


def _read_scanned(document: Any, scanned: list[int], texts: list[str], limits: Limits) -> int:
    """Put the text of scanned pages in its place; how many had any. Pages with text are worth having without it."""
    if limits.ocr is None:
        return 0
    from llmops.rag.parse.ocr import open_reader

    try:
        with open_reader(limits.ocr) as reader:
            for number in scanned:
                texts[number] = _read_page(document[number], reader)
    except RefusedDocumentError as refusal:
        if refusal.error_code != "ocr_missing" or not any(texts):
            raise
    return sum(bool(texts[number]) for number in scanned)


def _read_page(page: Any, reader: Reader) -> str:
    width, height = page.get_size()
    scale = min(_DOTS_PER_INCH / _POINTS_PER_INCH, _MAX_SIDE / max(width, height, 1))
    bitmap = page.render(scale=scale, grayscale=True)
    try:
        dots = round(scale * _POINTS_PER_INCH)
        return reader.read_pixels(bitmap.buffer, bitmap.width, bitmap.height, bitmap.stride, dots)
    finally:
        bitmap.close()
        page.close()


def _assemble(texts: list[str], named: str, learned: dict[str, Any]) -> Extracted:
    text, pages = paged(texts)
    blank = sum(not text for text in texts)
    title = None if not named.strip() or _NO_TITLE.fullmatch(named.strip()) else tidy_title(printable(named))
    first = next(page for page in texts if page)
    metadata = {"pages": len(texts), **({"pages_without_text": blank} if blank else {}), **learned}
    return Extracted(text, title or first_line_title(first), pages, metadata)
