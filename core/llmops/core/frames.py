"""The record format of spool files: frames that tell a whole record from a torn one.

A frame is MAGIC, the payload's length and its XXH3-64 (16 bytes, little-endian), then the payload: the table's name, a
newline, JSON. The bytes of MAGIC never occur in UTF-8, so after damage a reader finds the next frame by searching for
them. XXH3 because CRC-32 takes 0.9 us of 2.5 kB, and this 0.14. Knows no files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

MAGIC = b"\xf5LM\xfa"
HEADER = struct.Struct("<4sIQ")
_pack = HEADER.pack
MAX_PAYLOAD = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole record; `start` and `end` are byte offsets of the frame in what was scanned (plus `base`)."""

    start: int
    end: int
    table: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes between two places that belong to no whole frame. At the end (`at_end`) they may still be being written.

    `blank` bytes are zeros: room that was prepared and never written to.
    """

    start: int
    end: int
    at_end: bool
    blank: bool


def frame(prefix: bytes, body: bytes) -> bytes:
    """The frame of one record, as it goes to the file; `prefix` is the table's name and a newline."""
    payload = prefix + body
    return _pack(MAGIC, len(payload), xxh3_64_intdigest(payload)) + payload


def scan(data: bytes, base: int = 0) -> Iterator[Frame | Damage]:
    """Give every whole frame in order, and the damage between; never raises, whatever the bytes are."""
    position, damaged_from = 0, -1
    while position < len(data):
        found = _frame_at(data, position, base)
        if found is None:
            if damaged_from < 0:
                damaged_from = position
            position = data.find(MAGIC, position + 1)
            if position < 0:
                break
            continue
        if damaged_from >= 0:
            yield _damage(data, damaged_from, position, base)
            damaged_from = -1
        yield found
        position = found.end - base
    if damaged_from >= 0:
        yield _damage(data, damaged_from, len(data), base)


def _damage(data: bytes, start: int, end: int, base: int) -> Damage:
    return Damage(base + start, base + end, at_end=end == len(data), blank=not data[start:end].strip(b"\0"))


def _frame_at(data: bytes, position: int, base: int) -> Frame | None:
    if position + HEADER.size > len(data):
        return None
    magic, size, checksum = HEADER.unpack_from(data, position)
    begin = position + HEADER.size
    if magic != MAGIC or size > MAX_PAYLOAD or begin + size > len(data):
        return None
    payload = data[begin : begin + size]
    if xxh3_64_intdigest(payload) != checksum:
        return None
    table, newline, body = payload.partition(b"\n")
    if not newline:
        return None
    return Frame(base + position, base + begin + size, table.decode(errors="replace"), body)
