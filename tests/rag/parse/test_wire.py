"""The frames of a parser process trust nobody."""

from __future__ import annotations

import pytest

from llmops.core.confined import BrokenFrameError, FrameBuffer, pack
from llmops.rag.document import PageSpan, Parsed, RefusedDocumentError
from llmops.rag.parse import wire

SPANS = (PageSpan(1, 0, 4), PageSpan(2, 5, 6))
PARSED = Parsed("Title 日本", "text 🙂\r\n\x0b", SPANS, "text/plain", {"pages": 2}, "0" * 64)


def arrive(*buffers: bytes, piece: int = 1 << 20, limit: int = 1 << 20) -> Parsed | RefusedDocumentError | None:
    data = b"".join(buffers)
    frames = FrameBuffer(limit)
    for start in range(0, len(data), piece):
        frames.feed(data[start : start + piece])
        frame = frames.take()
        if frame is not None:
            return wire.unpack(*frame)
    return None


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_an_answer_arrives_as_it_was_sent(piece: int) -> None:
    assert arrive(*wire.pack_parsed(PARSED), piece=piece) == PARSED


def test_a_refusal_arrives_with_its_code() -> None:
    arrived = arrive(*wire.pack_refused(RefusedDocumentError("encrypted", "a password is needed")))
    assert isinstance(arrived, RefusedDocumentError)
    assert (arrived.error_code, arrived.what) == ("encrypted", "a password is needed")


def test_half_an_answer_is_none() -> None:
    assert arrive(b"".join(wire.pack_parsed(PARSED))[:-1]) is None


@pytest.mark.parametrize(
    "buffers",
    [
        [b"\xff" * 64],
        [b"\0\0\0\2" + bytes(8) + b"[]"],
        [b"\0\0\0\2" + bytes(8) + b"{]"],
        pack({}, b"text"),
        pack({"refused": "no such code", "reason": "x"}),
        pack({"refused": "empty"}),
        pack({"title": None, "pages": [[1, 0, 99]], "media_type": "", "metadata": {}, "sha256": ""}, b"text"),
        pack({"title": None, "pages": [[1, 3, 1]], "media_type": "", "metadata": {}, "sha256": ""}, b"text"),
        pack({"title": None, "pages": [[1]], "media_type": "", "metadata": {}, "sha256": ""}, b"text"),
        pack({"title": None, "pages": [], "media_type": "", "metadata": 1, "sha256": ""}, b"text"),
        pack({"title": None, "pages": [], "media_type": "", "metadata": {}, "sha256": ""}, b"\xff"),
    ],
)
def test_nonsense_is_told_from_an_answer(buffers: list[bytes]) -> None:
    with pytest.raises(BrokenFrameError):
        arrive(*buffers)


def test_an_answer_beyond_the_limit_is_refused_before_it_is_kept() -> None:
    with pytest.raises(BrokenFrameError, match="too large"):
        arrive(*pack({}, b"x" * 101)[:1], limit=100)
