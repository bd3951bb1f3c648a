"""Which trace a call belongs to, and the ids of its spans: known before anything is sent, and again from its row.

The data plane makes no spans. It notes in the row what the control process needs to make them later; an id follows
from the call's own and the number of the attempt, so that what a provider is told and what is exported agree, and a row
that is read twice gives the same spans. Knows no exporter and no telemetry library.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

PARENT_TAG: Final = "parent_span"
"""Tag of a row whose call is traced: its caller's span, empty where the trace begins here."""
ASKED_TAG: Final = "asked_ms"
"""Tag of such a row where an attempt answered: when that began, after the call came."""
ROW_TAGS: Final = frozenset((PARENT_TAG, ASKED_TAG))

_TRACEPARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Trace:
    """One call's place in a trace. `header` is what its caller sent; `tries` counts the attempts so far."""

    trace_id: str
    parent: str
    flags: str
    header: bytes | None
    tries: int = 0
    asked_s: float = 0.0

    @property
    def sampled(self) -> bool:
        """Whether the spans of this trace are kept, as whoever began it decided."""
        return bool(int(self.flags, 16) & 1)

    def onward(self, invocation_id: str) -> bytes:
        """The header that makes the next hop's spans children of the attempt under way."""
        return f"00-{self.trace_id}-{span_id(invocation_id, self.tries)}-{self.flags}".encode()


def read_trace(header: bytes) -> Trace | None:
    """A caller's traceparent; None where it is none."""
    found = _TRACEPARENT.fullmatch(header)
    if found is None:
        return None
    trace_id, parent, flags = header.decode().split("-")[1:]
    return Trace(trace_id, parent, flags, header)


def begin_trace(sample: float) -> Trace:
    """A trace that begins with this call; `sample` is the share of those whose spans are kept."""
    return Trace(f"{random.getrandbits(128) or 1:032x}", "", "01" if random.random() < sample else "00", None)  # noqa: S311 - no secret


def span_id(invocation_id: str, attempt: int = 0) -> str:
    """The id of a call's span, or of its attempt's: they count from 1."""
    return blake2b(f"{invocation_id}/{attempt}".encode(), digest_size=8).hexdigest()
