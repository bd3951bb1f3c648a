"""What a parser process answers, as frames of `core.confined`: a parsed document, or the reason why there is none.

The pool trusts no frame: a parser that was taken over can send anything, so everything is checked before it is used.
"""

from __future__ import annotations

from typing import Any

from llmops.core.confined import BrokenFrameError, pack
from llmops.rag.document import CODES, PageSpan, Parsed, RefusedDocumentError


def header_of(parsed: Parsed) -> dict[str, Any]:
    """All of a parsed document but its text, as JSON values."""
    return {
        "title": parsed.title,
        "pages": [(page.number, page.start, page.end) for page in parsed.pages],
        "media_type": parsed.media_type,
        "metadata": dict(parsed.metadata),
        "sha256": parsed.sha256,
    }


def pack_parsed(parsed: Parsed) -> list[bytes]:
    return pack(header_of(parsed), parsed.text.encode())


def pack_refused(refusal: RefusedDocumentError) -> list[bytes]:
    return pack({"refused": refusal.error_code, "reason": refusal.what})


def unpack(header: dict[str, Any], body: bytes) -> Parsed | RefusedDocumentError:
    """Read an answer.

    Raises:
        BrokenFrameError: it is none.
    """
    try:
        if "refused" in header:
            code, reason = str(header["refused"]), str(header["reason"])[:1000]
            if code not in CODES:
                raise BrokenFrameError("an unknown code")
            return RefusedDocumentError(code, reason)
        text = body.decode()
        pages = tuple(PageSpan(int(number), int(start), int(end)) for number, start, end in header["pages"])
        edges = [edge for page in pages for edge in (page.start, page.end)]
        if edges != sorted(edges) or (edges and not 0 <= edges[0] <= edges[-1] <= len(text)):
            raise BrokenFrameError("the pages lie outside the text")
        title = header["title"]
        return Parsed(
            None if title is None else str(title),
            text,
            pages,
            str(header["media_type"]),
            dict(header["metadata"]),
            str(header["sha256"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenFrameError(f"the answer is malformed: {error!r}") from error
