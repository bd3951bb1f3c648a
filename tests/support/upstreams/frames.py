"""Writes Amazon's binary event stream for tests, from its description alone."""

from __future__ import annotations

import json
import struct
from typing import Any
from zlib import crc32


def frame(payload: bytes, **headers: str) -> bytes:
    """One message; `message_type` stands for `:message-type`. All headers are texts."""
    told = b"".join(_header(f":{name.replace('_', '-')}", value) for name, value in headers.items())
    begin = struct.pack(">II", 16 + len(told) + len(payload), len(told))
    begin += struct.pack(">I", crc32(begin))
    whole = begin + told + payload
    return whole + struct.pack(">I", crc32(whole))


def event(name: str, **told: Any) -> bytes:
    payload = json.dumps(told).encode()
    return frame(payload, event_type=name, content_type="application/json", message_type="event")


def exception(name: str, message: str) -> bytes:
    payload = json.dumps({"message": message}).encode()
    return frame(payload, exception_type=name, content_type="application/json", message_type="exception")


def _header(name: str, value: str) -> bytes:
    told = value.encode()
    return struct.pack(">B", len(name)) + name.encode() + b"\x07" + struct.pack(">H", len(told)) + told
