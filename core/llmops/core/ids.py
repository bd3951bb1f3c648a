"""Identifiers that sort by time, and digests of canonical JSON."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from uuid_utils import uuid7


def new_id() -> str:
    """A UUIDv7 (RFC 9562): its first 48 bits are the millisecond, so rows written together lie together."""
    return str(uuid7())


def next_id(previous: str | None) -> str:
    """A UUIDv7 that sorts after `previous`, also where the clock has gone back: then its moment is `previous`'s."""
    fresh = new_id()
    if previous is None or fresh > previous:
        return fresh
    return str(UUID(int=UUID(previous).int + 1))


def id_time(identifier: str) -> datetime:
    """The moment at which `new_id` made this identifier, UTC."""
    return datetime.fromtimestamp(int(identifier.replace("-", "")[:12], 16) / 1000, tz=UTC)


def canonical_json(value: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: Any) -> str:
    """SHA-256 of bytes, of text, or of any JSON value in canonical form; lower-case hex."""
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes):
        value = canonical_json(value)
    return hashlib.sha256(value).hexdigest()
