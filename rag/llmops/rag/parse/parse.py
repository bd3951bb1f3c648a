"""One document's bytes to text, by its type. Runs wherever it is called: in this process, or in a parser process.

Knows which module parses what, and what every text must satisfy. Parsers are imported only when a document needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from llmops.core.errors import UnavailableError
from llmops.rag.document import Parsed, Place, RefusedDocumentError
from llmops.rag.parse import media
from llmops.rag.parse.extracted import Extracted, Limits
from llmops.rag.parse.read import Content, read
from llmops.rag.parse.stated import front_matter
from llmops.rag.parse.text import decode, first_line_title, markdown_title, rst_title

if TYPE_CHECKING:
    from llmops.rag.config import ParsingConfig

PARSER_VERSION = 4
"""Rises whenever the same file would give another text: it is part of an index's fingerprint."""


PARSERS = {
    media.PDF: "llmops.rag.parse.pdf",
    media.DOCX: "llmops.rag.parse.docx",
    media.PPTX: "llmops.rag.parse.pptx",
    media.XLSX: "llmops.rag.parse.xlsx",
    media.HTML: "llmops.rag.parse.html",
    media.CSV: "llmops.rag.parse.delimited",
    media.JSONL: "llmops.rag.parse.jsonl",
    media.NOTEBOOK: "llmops.rag.parse.notebook",
    media.MAIL: "llmops.rag.parse.mail",
    media.MBOX: "llmops.rag.parse.mbox",
    **dict.fromkeys(media.PICTURES, "llmops.rag.parse.picture"),
}


def fingerprint(config: ParsingConfig) -> dict[str, str | int]:
    """Everything that decides what text a file gives, for an index's fingerprint. Imports no parser.

    Raises:
        UnavailableError: the configuration wants pictures read, and nothing here can.
    """
    from importlib.metadata import version  # 15 ms, and only needed here

    libraries = {name: version(name) for name in ("pypdfium2", "trafilatura", "lxml")}
    reads = ocr_languages(config)
    engine = {"ocr": f"{_engine(config)} {reads}"} if reads is not None else {}
    return {"parser": PARSER_VERSION, **libraries, **engine}


def ocr_languages(config: ParsingConfig) -> str | None:
    """The languages to read pictures in, as the engine takes them; None where they are not read."""
    return None if config.ocr == "off" else "+".join(config.ocr_languages)


def _engine(config: ParsingConfig) -> str:
    from llmops.rag.parse import ocr

    found = ocr.engine_version()
    if found is None and config.ocr == "on":
        raise UnavailableError("`parsing.ocr` is on, but tesseract is not installed", hint=ocr.INSTALL)
    return f"tesseract {found}"


def parse_file(path: str, place: Place, limits: Limits) -> Parsed:
    """Read and parse one file; `path` tells its type, `place` where it lies.

    Raises:
        RefusedDocumentError: with the code that says why.
    """
    content = read(place, limits.max_bytes)
    return parse_content(path, content, limits)


def parse_content(path: str, content: Content, limits: Limits) -> Parsed:
    """Parse bytes that were read from `path`; the name only helps to tell the type."""
    media_type = media.by_content(path, content.data)
    if media_type in media.IN_PROCESS:
        extracted = _plain(content.data, media_type)
    else:
        extracted = import_module(PARSERS[media_type]).extract(content.data, limits)
    if not extracted.text or extracted.text.isspace():
        raise RefusedDocumentError("empty")
    if len(extracted.text) > limits.max_text_chars:
        detail = f"{len(extracted.text):,} characters of text; `max_text_chars` is {limits.max_text_chars:,}"
        raise RefusedDocumentError("too_much_text", detail)
    return Parsed(extracted.title, extracted.text, extracted.pages, media_type, extracted.metadata, content.sha256)


def _plain(data: bytes, media_type: str) -> Extracted:
    text, metadata = decode(data)
    if media_type in media.CODE:
        return Extracted(text, metadata={**metadata, "language": media_type.removeprefix("text/x-")})
    if media_type == media.MARKDOWN:
        metadata = {**metadata, **front_matter(text)}
    titled = {media.MARKDOWN: markdown_title, media.RST: rst_title}.get(media_type, first_line_title)
    return Extracted(text, titled(text), metadata=metadata)
