"""Cuts a stream of Amazon's binary events into whole messages, wherever the network happened to cut it into pieces.

Knows the frame: lengths, two checksums, headers, payload. Refuses to know what an event means. A message is given as
soon as its last byte came; one whose checksum is wrong is a fault, and so is all that follows it.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html,
https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

from llmops.gateway.calls import Fault

MAX_MESSAGE_BYTES = 24 * 1024**2
"""Longest message that the format allows; pictures travel within one."""

MAX_HEADER_BYTES = 128 * 1024

_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_SHORT = struct.Struct(">H")
_LEAST = _PRELUDE.size + _CRC.size
_FIXED_SIZES: Mapping[int, int] = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of the values that have no length of their own: true, false, byte, short, int, long, timestamp, uuid."""

_BYTES, _TEXT = 6, 7


@dataclass(slots=True, frozen=True)
class Message:
    """One whole message. `headers` holds the texts alone; no other kind of value means anything here."""

    headers: Mapping[str, str]
    payload: bytes


class Frames:
    """The messages of one stream. Raises Fault(`invalid`) for bytes that are none."""

    __slots__ = ("_rest", "_wanted")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._wanted = _PRELUDE.size

    @property
    def pending(self) -> int:
        """Bytes of a message that is not whole yet."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are whole now."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        messages = []
        at, size = 0, len(data)
        self._wanted = _PRELUDE.size
        while size - at >= _PRELUDE.size:
            length = _checked_length(data, at)
            if size - at < length:
                self._wanted = length
                break
            messages.append(_message(data, at, length))
            at += length
        self._rest += data[at:]
        return messages


def _checked_length(data: bytes, at: int) -> int:
    """The length that the prelude tells, once its own checksum is right: a wrong one would be waited for for ever."""
    length, header_bytes, told = _PRELUDE.unpack_from(data, at)
    if crc32(data[at : at + _PRELUDE.size - _CRC.size]) != told:
        raise _broken("the checksum of a prelude is wrong")
    if not _LEAST + header_bytes <= length <= MAX_MESSAGE_BYTES or header_bytes > MAX_HEADER_BYTES:
        raise _broken("a message has an impossible length")
    return int(length)


def _message(data: bytes, at: int, length: int) -> Message:
    end = at + length - _CRC.size
    (told,) = _CRC.unpack_from(data, end)
    if crc32(data[at:end]) != told:
        raise _broken("the checksum of a message is wrong")
    _, header_bytes, _ = _PRELUDE.unpack_from(data, at)
    begin = at + _PRELUDE.size
    return Message(_headers(data[begin : begin + header_bytes]), data[begin + header_bytes : end])


def _headers(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    names: set[str] = set()
    at = 0
    try:
        while at < len(data):
            name_end = at + 1 + data[at]
            name = data[at + 1 : name_end].decode()
            kind = data[name_end]
            at = name_end + 1
            if kind in (_BYTES, _TEXT):
                (size,) = _SHORT.unpack_from(data, at)
                at += _SHORT.size
            else:
                size = _FIXED_SIZES[kind]
            value = data[at : at + size]
            if len(value) < size or name in names:
                raise _broken("a header is cut off, or there twice")
            names.add(name)
            if kind == _TEXT:
                found[name] = value.decode()
            at += size
    except (IndexError, KeyError, struct.error, UnicodeDecodeError):
        raise _broken("a header cannot be read") from None
    return found


def _broken(why: str) -> Fault:
    return Fault("invalid", f"the provider's event stream is broken: {why}")
