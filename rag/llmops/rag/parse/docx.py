"""DOCX to Markdown-like text, by kreuzberg: headings, lists and tables survive.

Before its XML is parsed, the archive is measured and searched: it must not unpack to more than allowed, and no part may
declare a document type (Open Packaging forbids it, ECMA-376 part 2; entities that expand or read files need one).
"""

from __future__ import annotations

import zipfile
import zlib
from io import BytesIO
from typing import Any

import kreuzberg

from llmops.rag.document import RefusedDocumentError
from llmops.rag.parse.extracted import Extracted, Limits
from llmops.rag.parse.markup import Markup
from llmops.rag.parse.media import DOCX
from llmops.rag.parse.text import first_line_title, tidy_title

_MAX_PARTS = 20_000
_MAX_XML_BYTES = 512_000_000
_MAX_RATIO = 200
"""Office XML packs 5 to 30 times; deflate can do 1,032 times, and only bombs come near it."""
_RATIO_FROM_BYTES = 10_000_000
_BLOCK = 1 << 20
_DECLARATIONS = tuple(
    word.encode(encoding) for word in ("<!DOCTYPE", "<!ENTITY") for encoding in ("utf-8", "utf-16-le", "utf-16-be")
)
_NO_TITLE = ("word document", "microsoft word document", "untitled", "document")


def extract(data: bytes, limits: Limits) -> Extracted:
    """The body's text in reading order.

    Raises:
        RefusedDocumentError: `broken`, `encrypted`, `zip_bomb` or `xml_entities`.
    """
    _check_archive(data, limits)
    config = kreuzberg.ExtractionConfig(
        use_cache=False, enable_quality_processing=False, include_document_structure=True, output_format="plain"
    )
    try:
        result = kreuzberg.extract_bytes_sync(data, DOCX, config)
    except kreuzberg.KreuzbergError as error:
        raise RefusedDocumentError("broken", f"the DOCX is damaged: {' '.join(str(error).split())[:200]}") from error
    markup = Markup()
    for node in (result.document or {}).get("nodes", ()):
        _write(node["content"], markup)
    text = markup.text() or result.content
    named = str(result.metadata.get("title") or "")
    title = None if named.strip().lower() in _NO_TITLE else tidy_title(named)
    return Extracted(text, title or tidy_title(markup.first_heading or "") or first_line_title(text))


def _check_archive(data: bytes, limits: Limits) -> None:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            parts = archive.infolist()
            if any(part.flag_bits & 1 for part in parts):
                raise RefusedDocumentError("encrypted")
            _check_directory(parts, limits)
            for part in parts:
                if part.filename.lower().endswith((".xml", ".rels")):
                    _check_part(archive, part)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError, OSError) as error:
        raise RefusedDocumentError("broken", f"the archive is damaged: {error}") from error


def _check_directory(parts: list[zipfile.ZipInfo], limits: Limits) -> None:
    total = sum(part.file_size for part in parts)
    packed = sum(part.compress_size for part in parts)
    xml = sum(part.file_size for part in parts if part.filename.lower().endswith((".xml", ".rels")))
    swollen = total > _RATIO_FROM_BYTES and total > _MAX_RATIO * max(packed, 1)
    if len(parts) > _MAX_PARTS or xml > _MAX_XML_BYTES or total > 10 * limits.max_bytes or swollen:
        raise RefusedDocumentError("zip_bomb", f"{packed:,} bytes unpack to {total:,}")
    if not any(part.filename == "word/document.xml" or part.filename.startswith("word/document") for part in parts):
        raise RefusedDocumentError("broken", "the archive holds no Word document")


def _check_part(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> None:
    """Unpack a part in blocks: more bytes than its directory says, or a declaration, refuse the document."""
    tail = b""
    with archive.open(part) as stream:
        while block := stream.read(_BLOCK):
            window = tail + block
            if any(word in window for word in _DECLARATIONS):
                raise RefusedDocumentError("xml_entities")
            tail = window[-32:]


def _write(content: dict[str, Any], markup: Markup) -> None:
    """Write one node of kreuzberg's flat document structure; groups repeat what their children say."""
    kind = content["node_type"]
    if kind in ("heading", "title"):
        markup.heading(content.get("level", 1), content["text"])
    elif kind == "list_item":
        markup.item(content["text"])
    elif kind == "table":
        markup.table(_rows(content["grid"]))
    elif kind == "code":
        markup.code(content["text"])
    elif kind not in ("group", "list", "page_break", "image") and content.get("text"):
        markup.paragraph(content["text"])


def _rows(grid: dict[str, Any]) -> list[list[str]]:
    rows = [[""] * grid["cols"] for _ in range(grid["rows"])]
    for cell in grid["cells"]:
        rows[cell["row"]][cell["col"]] = cell["content"]
    return rows
