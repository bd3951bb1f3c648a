"""Amazon's binary events: the same however they are cut, as AWS's own library reads them, and a fault where broken."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nonsense import EXAMPLES, TEXT
from tests.support.upstreams.frames import event, frame

from llmops.gateway.calls import Fault
from llmops.gateway.eventstream import MAX_MESSAGE_BYTES, Frames, Message

STREAM = (Path(__file__).parent / "fixtures" / "bedrock" / "stream.bin").read_bytes()
# The vectors that AWS's event stream libraries are tested with.
EMPTY = bytes.fromhex("000000100000000005c248eb7d98c8ff")
NO_HEADERS = bytes.fromhex("0000001d00000000fd528c5a") + b"{'foo':'bar'}" + bytes.fromhex("c3653936")
ONE_HEADER = (
    bytes.fromhex("0000003d0000002007fd8396")
    + b"\x0ccontent-type\x07\x00\x10application/json"
    + b"{'foo':'bar'}"
    + bytes.fromhex("8d9c08b1")
)


def read(data: bytes, cuts: list[int] | None = None) -> list[Message]:
    frames = Frames()
    places = sorted({min(cut, len(data)) for cut in cuts or []})
    pieces = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    found = [message for piece in pieces for message in frames.feed(piece)]
    assert frames.pending == 0
    return found


def test_the_published_vectors() -> None:
    assert read(EMPTY) == [Message({}, b"")]
    assert read(NO_HEADERS) == [Message({}, b"{'foo':'bar'}")]
    assert read(ONE_HEADER) == [Message({"content-type": "application/json"}, b"{'foo':'bar'}")]
    assert len(read(EMPTY + NO_HEADERS + ONE_HEADER)) == 3


def test_every_kind_of_header_is_passed_over_but_texts() -> None:
    values = [b"\x00", b"\x01", b"\x02a", b"\x03ab", b"\x04abcd", b"\x05abcdefgh", b"\x06\x00\x02ab", b"\x07\x00\x02ab"]
    values += [b"\x08abcdefgh", b"\x09abcdefghabcdefgh"]
    headers = b"".join(b"\x02h" + str(number).encode() + value for number, value in enumerate(values))
    assert read(_raw(headers, b"x")) == [Message({"h7": "ab"}, b"x")]


MESSAGES = st.lists(st.tuples(st.dictionaries(st.sampled_from(["a", "b", "event_type"]), TEXT), st.binary(max_size=60)))


@settings(max_examples=EXAMPLES, deadline=None)
@given(messages=MESSAGES, cuts=st.lists(st.integers(0, 600), max_size=12))
def test_any_cut_gives_the_same_messages_and_awss_library_the_same_too(
    messages: list[tuple[dict[str, str], bytes]], cuts: list[int]
) -> None:
    data = b"".join(frame(payload, **headers) for headers, payload in messages)
    found = read(data, cuts)
    assert [message.payload for message in found] == [payload for _, payload in messages]
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    theirs = [(told.headers, told.payload) for told in buffer]
    assert [(dict(message.headers), message.payload) for message in found] == theirs


@settings(max_examples=EXAMPLES, deadline=None)
@given(place=st.integers(0, len(STREAM) - 1), bit=st.integers(0, 7), cut=st.integers(1, 200))
def test_a_flipped_bit_is_a_fault_and_nothing_after_it_is_told(place: int, bit: int, cut: int) -> None:
    broken = bytearray(STREAM)
    broken[place] ^= 1 << bit
    whole = read(STREAM)
    frames = Frames()
    found: list[Message] = []
    with pytest.raises(Fault, match="event stream is broken") as caught:
        for start in range(0, len(broken), cut):
            found += frames.feed(bytes(broken[start : start + cut]))
    assert caught.value.kind == "invalid"
    assert found == whole[: len(found)]


@pytest.mark.parametrize(
    ("length", "headers"), [(15, 0), (16, 1), (MAX_MESSAGE_BYTES + 1, 0), (1024 * 1024, 129 * 1024)]
)
def test_an_impossible_length_is_told_at_once(length: int, headers: int) -> None:
    wrong = struct.pack(">II", length, headers)
    with pytest.raises(Fault, match="impossible length"):
        Frames().feed(wrong + struct.pack(">I", crc32(wrong)))


@pytest.mark.parametrize(
    "headers",
    [b"\x05ab", b"\x01a", b"\x01a\x0a", b"\x01a\x07\x00\x09ab", b"\x01a\x07\x00\x01\xff", b"\x01a\x04ab", b"\x01a\x07"],
)
def test_headers_that_cannot_be_read(headers: bytes) -> None:
    with pytest.raises(Fault, match="header"):
        Frames().feed(_raw(headers, b""))
    with pytest.raises(Fault, match="twice"):
        Frames().feed(_raw(b"\x01a\x00" * 2, b""))


def test_a_large_message_in_small_pieces_is_put_together_once() -> None:
    data = event("contentBlockDelta", delta={"text": "x" * 3_000_000})
    frames = Frames()
    found = [message for start in range(0, len(data), 1024) for message in frames.feed(data[start : start + 1024])]
    assert [len(json.loads(message.payload)["delta"]["text"]) for message in found] == [3_000_000]


def _raw(headers: bytes, payload: bytes) -> bytes:
    begin = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    begin += struct.pack(">I", crc32(begin))
    whole = begin + headers + payload
    return whole + struct.pack(">I", crc32(whole))
