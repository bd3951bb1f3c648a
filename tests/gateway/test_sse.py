"""Events are the same wherever the network cuts the stream, and whatever ends its lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.json_values import CUTS, patiently, pieces

from llmops.gateway.calls import Fault
from llmops.gateway.sse import Splitter, blocks, read_event

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
FIELD_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12).map(str.encode)
LINES = st.one_of(
    FIELD_TEXT.map(lambda text: b"data: " + text),
    FIELD_TEXT.map(lambda text: b"data:" + text),
    FIELD_TEXT.map(lambda text: b"event: " + text),
    FIELD_TEXT.map(lambda text: b":" + text),
    st.sampled_from([b"data", b"id: 7", b"retry: 10", b"unknown: x", b"", b""]),
)
ALPHABET = st.lists(st.sampled_from([b"data: x", b"event: e", b"\n", b"\r", b"\r\n", b":", b"\xff", b" "]), max_size=30)


def by_the_standard(raw: bytes) -> list[tuple[bytes, bytes]]:
    """The events, read byte by byte as the standard's text says; nothing clever."""
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    lines, line, index = [], b"", 0
    while index < len(raw):
        if raw[index : index + 2] == b"\r\n":
            lines.append(line)
            line, index = b"", index + 2
        elif raw[index : index + 1] in (b"\r", b"\n"):
            lines.append(line)
            line, index = b"", index + 1
        else:
            line, index = line + raw[index : index + 1], index + 1
    events, name, data = [], b"", None
    for text in lines:
        if not text:
            if data is not None:
                events.append((name, data))
            name, data = b"", None
        elif not text.startswith(b":"):
            field, _, value = text.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data = value if data is None else data + b"\n" + value
            elif field == b"event":
                name = value
    return events


STREAMS = st.lists(st.tuples(LINES, ENDS), max_size=25).map(lambda lines: b"".join(text + end for text, end in lines))


@patiently
@given(raw=st.one_of(STREAMS, ALPHABET.map(b"".join)), cuts=CUTS, bom=st.booleans())
def test_events_are_those_of_the_standard_wherever_the_stream_is_cut(raw: bytes, cuts: list[int], bom: bool) -> None:
    raw = b"\xef\xbb\xbf" + raw if bom else raw
    splitter = Splitter()
    found = [event for piece in pieces(raw, cuts) for event in splitter.feed(piece)]
    assert found == by_the_standard(raw)


@patiently
@given(raw=st.one_of(STREAMS, ALPHABET.map(b"".join)), cuts=CUTS)
def test_passing_on_changes_no_byte_and_gives_whole_events_only(raw: bytes, cuts: list[int]) -> None:
    splitter = Splitter()
    passed = [splitter.whole(piece) for piece in pieces(raw, cuts)]
    assert raw.startswith(b"".join(passed))
    assert len(b"".join(passed)) + splitter.pending == len(raw)
    assert by_the_standard(b"".join(passed)) == by_the_standard(raw)
    for data in passed:
        assert b"".join(blocks(data)) == data
        assert [event for block in blocks(data) if (event := read_event(block))] == by_the_standard(data)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_an_event_without_end_is_refused_before_it_fills_the_memory(size: int) -> None:
    splitter = Splitter(max_bytes=1000)
    with pytest.raises(Fault, match="more than 1000 bytes") as caught:
        for _ in range(2000):
            splitter.feed(b"x" * size)
    assert caught.value.kind == "invalid"
    assert splitter.pending == 0


def test_many_events_in_one_piece_are_not_one_long_event() -> None:
    splitter = Splitter(max_bytes=50)
    assert splitter.feed(b"data: " + b"x" * 40 + b"\n\n" + b"data: y\n\n" * 100) == [
        (b"", b"x" * 40),
        *[(b"", b"y")] * 100,
    ]


def test_an_event_is_given_with_its_blank_line_and_no_later() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: a\r\n\r") == [(b"", b"a")]
    assert splitter.feed(b"\ndata: b\r\n") == []
    assert splitter.feed(b"\r\n") == [(b"", b"b")]
