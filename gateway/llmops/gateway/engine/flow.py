"""A streamed reply on its way: the provider's events in, the caller's events out, and what is kept of them for the log.

Knows nothing of connections and time. Where the formats agree, bytes pass through `Relay`; else a `Reader` turns them
into chat chunks, a guard may hold some back, and a `Writer` says them in the caller's format.
"""

from __future__ import annotations

import zlib
from typing import Final, Literal

from llmops.gateway.calls import Fault, Reader, Relay, StreamState, Writer
from llmops.gateway.guard import StreamGuard

KEPT_BYTES: Final = 1024 * 1024
_FOLDED_BYTES: Final = 8 * 1024
"""Beyond this much, what is kept `folded` is compressed: events repeat their frame; it takes 2 us an event."""

Keep = Literal["nothing", "plain", "folded"]


class Flow:
    """One stream. `kept` gives what went to the caller, up to a bound; `cut` tells that there was more."""

    __slots__ = (
        "_checks",
        "_fold",
        "_folded",
        "_kept",
        "_reader",
        "_relay",
        "_room",
        "_unfolded",
        "_writer",
        "cut",
        "state",
    )

    def __init__(
        self,
        relay: Relay | None,
        reader: Reader | None = None,
        writer: Writer | None = None,
        checks: StreamGuard | None = None,
        keep: Keep = "plain",
    ) -> None:
        self._relay = relay
        self._reader = reader
        self._writer = writer
        self._checks = checks
        self._kept: list[bytes] = []
        self._folded: list[bytes] | None = None
        self._unfolded = 0
        self._room = KEPT_BYTES if keep != "nothing" else 0
        self._fold = keep == "folded"
        self.cut = False
        state: StreamState | None = relay if relay is not None else reader
        assert state is not None
        self.state = state

    def feed(self, data: bytes) -> bytes:
        """What goes to the caller now; empty while there is nothing whole.

        Raises:
            Fault: the provider's stream cannot be read, or a guard stopped it.
        """
        out = self._relay.feed(data) if self._relay is not None else self._translated(data)
        if out:
            self._keep(out)
        return out

    def end(self) -> bytes:
        """The last bytes of a good stream."""
        if self._writer is None:
            return b""
        out = b""
        if self._checks is not None:
            held = self._checks.finish()
            self._obey(self._checks)
            out = self._writer.feed(held) if held else b""
        out += self._writer.end()
        if out:
            self._keep(out)
        return out

    def _translated(self, data: bytes) -> bytes:
        assert self._reader is not None
        assert self._writer is not None
        chunks = self._reader.feed(data)
        if self._checks is not None and chunks:
            chunks = self._checks.feed(chunks)
            self._obey(self._checks)
        return self._writer.feed(chunks) if chunks else b""

    @property
    def findings(self) -> tuple[str, ...]:
        """What the guard found, for the log."""
        return self._checks.findings if self._checks is not None else ()

    def _obey(self, checks: StreamGuard) -> None:
        if checks.fault is not None:
            raise checks.fault

    @property
    def kept(self) -> bytes:
        """The events that went to the caller."""
        return b"".join([*map(zlib.decompress, self._folded or ()), *self._kept])

    def _keep(self, out: bytes) -> None:
        if self._room <= 0:
            self.cut = True
            return
        size = len(out)
        self._kept.append(out)
        self._room -= size
        self._unfolded += size
        if self._fold and self._unfolded > _FOLDED_BYTES:
            self._folded = [*(self._folded or ()), zlib.compress(b"".join(self._kept), 1)]
            self._kept = []
            self._unfolded = 0


def state_fault(state: StreamState) -> Fault:
    """Why a stream that ended is no good stream."""
    return state.fault or Fault("cut", "the provider's reply ended before its end", 502)
