"""The record format of spool files: frames that tell a whole record from a torn one.

A frame is MAGIC, the payload's length and its CRC-32 (12 bytes, little-endian), then the payload: the table's name, a
newline, JSON. The bytes of MAGIC never occur in UTF-8, so after damage a reader finds the next frame by searching for
them. Knows no files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

MAGIC = b"\xf5LM\xfa"
HEADER = struct.Struct("<4sII")
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
    """Bytes between two places that belong to no whole frame. At the end (`at_end`) they may still be being written."""

    start: int
    end: int
    at_end: bool


class Framer:
    """Makes the frames of one table: what depends on the table alone is computed once."""

    def __init__(self, table: str) -> None:
        self._prefix = f"{table}\n".encode()
        self._prefix_crc = crc32(self._prefix)
        self._prefix_size = len(self._prefix)

    def frame(self, body: bytes) -> bytes:
        header = HEADER.pack(MAGIC, self._prefix_size + len(body), crc32(body, self._prefix_crc))
        return b"".join((header, self._prefix, body))


def scan(data: bytes, base: int = 0) -> Iterator[Frame | Damage]:
    """Give every whole frame in order, and the damage between; never raises, whatever the bytes are."""
    position, damaged_from = 0, -1
    while position < len(data):
        frame = _frame_at(data, position, base)
        if frame is None:
            if damaged_from < 0:
                damaged_from = position
            position = data.find(MAGIC, position + 1)
            if position < 0:
                break
            continue
        if damaged_from >= 0:
            yield Damage(base + damaged_from, frame.start, at_end=False)
            damaged_from = -1
        yield frame
        position = frame.end - base
    if damaged_from >= 0:
        yield Damage(base + damaged_from, base + len(data), at_end=True)


def _frame_at(data: bytes, position: int, base: int) -> Frame | None:
    if position + HEADER.size > len(data):
        return None
    magic, size, checksum = HEADER.unpack_from(data, position)
    begin = position + HEADER.size
    if magic != MAGIC or size > MAX_PAYLOAD or begin + size > len(data):
        return None
    payload = data[begin : begin + size]
    if crc32(payload) != checksum:
        return None
    table, newline, body = payload.partition(b"\n")
    if not newline:
        return None
    return Frame(base + position, base + begin + size, table.decode(errors="replace"), body)
