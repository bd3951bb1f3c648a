"""Frames between the pool and a parser process: a JSON header and a text, each with its length in front.

Knows bytes only. The pool trusts no frame: a parser that was taken over can send anything, so sizes are bounded before
memory is given and everything is checked before it is used.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from llmops.rag.document import CODES, PageSpan, Parsed, RefusedDocumentError

_LENGTHS = struct.Struct(">IQ")
_MAX_HEADER_BYTES = 64_000_000


class BrokenFrameError(Exception):
    """The other side does not speak the protocol."""


def pack(header: dict[str, Any], body: bytes = b"") -> list[bytes]:
    """One frame, as buffers to be written one after the other (a long body is not copied)."""
    encoded = json.dumps(header).encode()
    return [_LENGTHS.pack(len(encoded), len(body)) + encoded, body]


class FrameBuffer:
    """Collects bytes as they come, and gives a frame when it is whole."""

    def __init__(self, max_body_bytes: int) -> None:
        self._data = bytearray()
        self._max_body_bytes = max_body_bytes

    @property
    def begun(self) -> bool:
        return bool(self._data)

    def feed(self, data: bytes) -> None:
        self._data += data

    def take(self) -> tuple[dict[str, Any], bytes] | None:
        """The next frame, or None while it is incomplete.

        Raises:
            BrokenFrameError: it is larger than any answer may be, or no JSON.
        """
        if len(self._data) < _LENGTHS.size:
            return None
        header_length, body_length = _LENGTHS.unpack_from(self._data)
        if header_length > _MAX_HEADER_BYTES or body_length > self._max_body_bytes:
            raise BrokenFrameError("the frame is too large")
        start = _LENGTHS.size + header_length
        if len(self._data) < start + body_length:
            return None
        with memoryview(self._data) as view:
            encoded, body = bytes(view[_LENGTHS.size : start]), bytes(view[start : start + body_length])
        del self._data[: start + body_length]
        try:
            header = json.loads(encoded)
        except ValueError as error:
            raise BrokenFrameError("the header is no JSON") from error
        if not isinstance(header, dict):
            raise BrokenFrameError("the header is no object")
        return header, body


def pack_parsed(parsed: Parsed) -> list[bytes]:
    header = {
        "title": parsed.title,
        "pages": [(page.number, page.start, page.end) for page in parsed.pages],
        "media_type": parsed.media_type,
        "metadata": dict(parsed.metadata),
        "sha256": parsed.sha256,
    }
    return pack(header, parsed.text.encode())


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
