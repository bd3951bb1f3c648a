"""Plain text and markup: the file's own characters, or a refusal where they cannot be told.

Knows character encodings and what a title looks like. The characters stay exactly as they are, CRLF included, so that a
citation's offsets can be checked against the file; only a byte order mark goes.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

from llmops.rag.document import RefusedDocumentError
from llmops.rag.outline import markdown_outline, rst_outline

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE_BYTES = 1 << 16
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\x80-\x84\x86-\x9f]")
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?:[^\n]*\n)*?(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)")
_FRONT_TITLE = re.compile(r"^title:(.*)$", re.MULTILINE | re.IGNORECASE)
_HEAD_CHARS = 20_000
_TITLE_CHARS = 120


def decode(data: bytes) -> tuple[str, dict[str, Any]]:
    """Characters of a text file, and how they were told: UTF-8, by a byte order mark, or guessed.

    Raises:
        RefusedDocumentError: `binary`, or `wrong_encoding` where nothing fits.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding), {"encoding": encoding}
            except UnicodeDecodeError as error:
                raise RefusedDocumentError(
                    "wrong_encoding", f"the byte order mark says {encoding}, but: {error.reason}"
                ) from error
    if b"\0" in data:
        raise _not_text(data)
    try:
        return data.decode("utf-8"), {}
    except UnicodeDecodeError:
        return _guess(data)


def _not_text(data: bytes) -> RefusedDocumentError:
    """Zeros in every second byte are UTF-16 without its mark; anywhere else they are no text at all."""
    sample = data[:_SAMPLE_BYTES]
    for offset in (0, 1):
        half = sample[offset::2]
        if half.count(0) > 0.4 * len(half) and sample[1 - offset :: 2].count(0) == 0:
            return RefusedDocumentError(
                "wrong_encoding", "it looks like UTF-16 without a byte order mark; save it as UTF-8"
            )
    return RefusedDocumentError("binary")


def _guess(data: bytes) -> tuple[str, dict[str, Any]]:
    """Detect the encoding on a sample, and believe it only where the whole file decodes without control characters."""
    from charset_normalizer import from_bytes  # 60 ms, and rarely needed

    best = from_bytes(data[:_SAMPLE_BYTES]).best()
    for encoding in (best.encoding if best is not None else None, "cp1252"):
        if encoding is None:
            continue
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if len(_CONTROL.findall(text[:_SAMPLE_BYTES])) * 1000 <= min(len(text), _SAMPLE_BYTES):
            return text, {"encoding": encoding, "encoding_guessed": True}
    raise RefusedDocumentError("wrong_encoding", "it is not UTF-8, and no other encoding fits; save it as UTF-8")


def markdown_title(text: str) -> str | None:
    """The title of the front matter, else the first heading outside code, near the top."""
    head = text[:_HEAD_CHARS]
    front = _FRONT_MATTER.match(head)
    named = _FRONT_TITLE.search(front.group()) if front is not None else None
    if named is not None:
        return tidy_title(named.group(1).strip().strip("\"'"))
    headings = markdown_outline(head).headings
    return tidy_title(headings[0].path[-1]) if headings and headings[0].path else None


def rst_title(text: str) -> str | None:
    """The first section title near the top."""
    headings = rst_outline(text[:_HEAD_CHARS]).headings
    return tidy_title(headings[0].path[-1]) if headings else None


def first_line_title(text: str) -> str | None:
    """The first line, where it reads like a title: short, and not a sentence."""
    line = text[:2000].lstrip().split("\n", 1)[0].strip()
    if not any(char.isalpha() for char in line) or len(line) > _TITLE_CHARS or line.endswith((".", ",", ";", ":")):
        return None
    return tidy_title(line)


def tidy_title(title: str) -> str | None:
    """One line, at most 120 characters, or None where nothing is left."""
    title = " ".join(title.split())
    return (title if len(title) <= _TITLE_CHARS else title[: _TITLE_CHARS - 1].rstrip() + "…") or None
