"""One document's bytes to text, by its type. Runs wherever it is called: in this process, or in a parser process.

Knows which module parses what, and what every text must satisfy. Parsers are imported only when a document needs them.
"""

from __future__ import annotations

from importlib import import_module

from llmops.rag.document import Parsed, RefusedDocumentError
from llmops.rag.parse import media
from llmops.rag.parse.extracted import Extracted, Limits
from llmops.rag.parse.read import Content, read
from llmops.rag.parse.text import decode, first_line_title, markdown_title

PARSER_VERSION = 1
"""Rises whenever the same file would give another text: it is part of an index's fingerprint."""


PARSERS = {
    media.PDF: "llmops.rag.parse.pdf",
    media.DOCX: "llmops.rag.parse.docx",
    media.HTML: "llmops.rag.parse.html",
}


def fingerprint() -> dict[str, str | int]:
    """Everything that decides what text a file gives, for an index's fingerprint. Imports no parser."""
    from importlib.metadata import version  # 15 ms, and only needed here

    libraries = {name: version(name) for name in ("pypdfium2", "trafilatura", "lxml")}
    return {"parser": PARSER_VERSION, **libraries}


def parse_file(path: str, limits: Limits) -> Parsed:
    """Read and parse one file.

    Raises:
        RefusedDocumentError: with the code that says why.
    """
    content = read(path, limits.max_bytes)
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
    title = markdown_title(text) if media_type == media.MARKDOWN else first_line_title(text)
    return Extracted(text, title, metadata=metadata)
