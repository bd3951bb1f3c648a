"""JSON lines to one paragraph of `key: value` for each record, under its title where it has one.

Knows JSON; figures keep their own characters, so that a citation shows what the file says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llmops.rag.document import RefusedDocumentError
from llmops.rag.parse.extracted import Extracted, Limits
from llmops.rag.parse.markup import Markup
from llmops.rag.parse.text import decode

_TITLES = ("title", "name", "subject")
_MAX_TITLE_CHARS = 200
_MAX_DEPTH = 20
_SPELLED = {None: "", True: "true", False: "false"}
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)


def extract(data: bytes, limits: Limits) -> Extracted:
    """The records in the order of their lines.

    Raises:
        RefusedDocumentError: `broken` with the line that is no JSON, `wrong_encoding`, `binary` or `too_much_text`.
    """
    text, metadata = decode(data)
    markup = Markup(limits.max_text_chars)
    records = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            _write(_read(line, number), markup)
            records += 1
    return Extracted(markup.text(), metadata={**metadata, "records": records})


def _read(line: str, number: int) -> Any:
    try:
        return _DECODER.decode(line.strip())
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise RefusedDocumentError("broken", f"line {number:,} is no JSON: {reason}") from error


def _write(record: Any, markup: Markup) -> None:
    titled = _title(record) if isinstance(record, dict) else None
    if titled is not None:
        markup.heading(2, record[titled])
    markup.record((name, value) for name, value in _fields(record, "", 0) if name != titled)


def _title(record: dict[str, Any]) -> str | None:
    """The key of the record's title: a line of text."""
    for key, value in record.items():
        if key.lower() in _TITLES and isinstance(value, str) and "\n" not in value.strip():
            return key if 0 < len(value.strip()) <= _MAX_TITLE_CHARS else None
    return None


def _fields(value: Any, name: str, depth: int) -> Iterator[tuple[str, str]]:
    """The leaves beneath a value, each with the keys that lead to it; a list of plain values is one leaf."""
    if depth > _MAX_DEPTH:
        raise RefusedDocumentError("broken", "a record is nested too deep")
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _fields(inner, f"{name}.{key}" if name else key, depth + 1)
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for place, inner in enumerate(value, start=1):
            yield from _fields(inner, f"{name}.{place}" if name else str(place), depth + 1)
    elif isinstance(value, list):
        yield name, ", ".join(_spelled(inner) for inner in value if inner is not None)
    else:
        yield name, _spelled(value)


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else _SPELLED[value]
