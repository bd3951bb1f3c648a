"""Jupyter notebooks to Markdown: text cells as they stand, code cells as code, and what the code printed.

Knows the notebook format (nbformat 3 and 4). Nothing is run; pictures and HTML among the outputs are not read, as the
plain text beside them says the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llmops.rag.document import RefusedDocumentError
from llmops.rag.parse.extracted import Extracted, Limits
from llmops.rag.parse.markup import Markup
from llmops.rag.parse.text import decode, tidy_title

_MAX_OUTPUT_CHARS = 4000
"""What a cell printed beyond this is a log, not an answer."""


def extract(data: bytes, limits: Limits) -> Extracted:
    """The cells in their order.

    Raises:
        RefusedDocumentError: `broken`, `wrong_encoding`, `binary` or `too_much_text`.
    """
    text, metadata = decode(data)
    try:
        book = json.loads(text)
        facts = _object(book.get("metadata")) if isinstance(book, dict) else {}
        language = _language(facts)
        markup = Markup(limits.max_text_chars)
        for cell in _cells(book):
            _write(cell, language, markup)
    except (ValueError, RecursionError) as error:
        raise RefusedDocumentError("broken", f"no notebook: {error}") from error
    named = facts.get("title")
    title = tidy_title(named if isinstance(named, str) else "") or tidy_title(markup.first_heading or "")
    return Extracted(markup.text(), title, metadata={**metadata, **({"language": language} if language else {})})


def _cells(book: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(book, dict):
        raise ValueError("it is no JSON object")
    sheets = book["worksheets"] if isinstance(book.get("worksheets"), list) else [book]
    for sheet in sheets:
        cells = _object(sheet).get("cells")
        if not isinstance(cells, list):
            raise ValueError("it has no cells")
        yield from (_object(cell) for cell in cells)


def _language(facts: dict[str, Any]) -> str:
    named = _object(facts.get("language_info")).get("name") or _object(facts.get("kernelspec")).get("language")
    return named if isinstance(named, str) and named.isalnum() else ""


def _write(cell: dict[str, Any], language: str, markup: Markup) -> None:
    kind = cell.get("cell_type")
    source = _joined(cell.get("source", cell.get("input")))
    if kind == "code":
        markup.code(source, language)
        outputs = cell.get("outputs")
        printed = "\n".join(_printed(_object(one)) for one in outputs) if isinstance(outputs, list) else ""
        markup.code(printed if len(printed) <= _MAX_OUTPUT_CHARS else f"{printed[:_MAX_OUTPUT_CHARS]} …")
    elif kind == "heading":
        level = cell.get("level")
        markup.heading(level if isinstance(level, int) else 1, source)
    elif kind == "markdown":
        markup.markdown(source)
    else:
        markup.paragraph(source)


def _printed(output: dict[str, Any]) -> str:
    """What a person reads of an output: its text, or the error's last line."""
    if output.get("output_type") in ("error", "pyerr"):
        return f"{output.get('ename')}: {output.get('evalue')}"
    data = _object(output.get("data"))
    return _joined(output.get("text", data.get("text/plain"))).rstrip()


def _joined(text: Any) -> str:
    """Text of a cell, which the format also allows as a list of lines."""
    return "".join(part for part in text if isinstance(part, str)) if isinstance(text, list) else str(text or "")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
