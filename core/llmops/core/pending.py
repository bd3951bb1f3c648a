"""Reads records that still wait in the spool, for those who cannot wait for the drainer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from llmops.core.frames import Frame, scan
from llmops.core.segments import Segment

_PLAIN = re.compile(r"[A-Za-z0-9_.:-]+")  # JSON writes these as they are


def pending_rows(
    table: str, starts: Mapping[Segment, int], where: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """The records of one table behind the given offset of each segment, oldest first.

    `where` may let rows through that do not match: it only spares decoding most of those.
    """
    needles = [value.encode() for value in (where or {}).values() if isinstance(value, str) and _PLAIN.fullmatch(value)]
    for segment, start in starts.items():
        for frame in scan(segment.read(start), start):
            if not isinstance(frame, Frame) or frame.table != table:
                continue
            if not all(needle in frame.body for needle in needles):
                continue
            try:
                record = orjson.loads(frame.body)
            except orjson.JSONDecodeError:
                continue  # the drainer sets it aside and counts it
            if isinstance(record, dict):
                yield record
