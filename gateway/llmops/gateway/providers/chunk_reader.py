"""What reading a provider's stream as chat chunks is, whatever the format: one event after another, until one tells
of a fault; and what is known of a stream meanwhile.

Knows no format: how bytes become events, and what an event says, is the provider's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from llmops.gateway import answers
from llmops.gateway.calls import Fault, Json, Usage
from llmops.gateway.reading import UPSTREAM
from llmops.gateway.sse import Splitter

Event = TypeVar("Event")


class Progress:
    """How far a stream has come; see `StreamState`."""

    def __init__(self, secret: str | None = None) -> None:
        self.usage: Usage | None = None
        self.model: str | None = None
        self.finished = False
        self.fault: Fault | None = None
        self._secret = secret
        self._tally = answers.Tally()

    @property
    def received(self) -> int:
        return self._tally.tokens


class ChunkReader(Progress, ABC, Generic[Event]):
    """A `Reader` but for what a provider's events are (`_events`) and say (`_said`). A Fault raised there ends it."""

    def __init__(self, secret: str | None = None) -> None:
        super().__init__(secret)
        self._chunks = answers.Chunks()

    def feed(self, data: bytes) -> list[Json]:
        chunks: list[Json] = []
        if self.fault is not None:
            return chunks
        try:
            for event in self._events(data):
                chunks += self._said(event)
        except Fault as fault:
            self.fault = fault
        return chunks

    @abstractmethod
    def _events(self, data: bytes) -> Iterable[Event]:
        """The events that are whole with these bytes."""

    @abstractmethod
    def _said(self, event: Event) -> list[Json]:
        """The chunks that say what the event says."""


class SseReader(ChunkReader[Json]):
    """Of providers whose events are JSON objects in server-sent events."""

    _END: bytes | None = None
    """What is sent in place of an object after the last one."""

    def __init__(self, secret: str | None = None) -> None:
        super().__init__(secret)
        self._splitter = Splitter()

    def _events(self, data: bytes) -> Iterator[Json]:
        for _, told in self._splitter.feed(data):
            if self._END is None or told.strip() != self._END:
                yield UPSTREAM.object(UPSTREAM.parsed(told, "data"), "data")
