"""Says Gemini's stream as chat chunks.

Source: https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent
"""

from __future__ import annotations

from dataclasses import replace

from llmops.gateway.calls import Json
from llmops.gateway.providers.chunk_reader import SseReader
from llmops.gateway.providers.faults import stream_fault
from llmops.gateway.providers.gemini.reply import Turn, read_usage, response_id
from llmops.gateway.reading import UPSTREAM


class ContentReader(SseReader):
    """The chunks of one stream. Usage is an estimate until the candidate has ended."""

    def __init__(self, secret: str | None = None) -> None:
        super().__init__(secret)
        self._turn: Turn | None = None
        self._told_usage = False

    def _said(self, told: Json) -> list[Json]:
        if told.get("error"):
            raise stream_fault(told, self._secret)
        chunks = []
        self.model = UPSTREAM.optional_text(told.get("modelVersion"), "modelVersion") or self.model
        if self._turn is None:
            self._turn = Turn(response_id(told))
            chunks.append(self._chunks.begin(self._turn.id, self.model or ""))
        for delta in self._turn.deltas(told):
            self._count(delta)
            chunks.append(self._chunks.delta(delta))
        if self._turn.finish is not None and not self.finished:
            self.finished = True
            chunks.append(self._chunks.delta({}, self._turn.finish))
        return chunks + self._with_usage(told.get("usageMetadata"))

    def _count(self, delta: Json) -> None:
        for name in ("content", "reasoning_content"):
            self._tally.add(delta.get(name, ""))
        for call in delta.get("tool_calls", ()):
            self._tally.add(call["function"]["name"] + call["function"]["arguments"])

    def _with_usage(self, metadata: object) -> list[Json]:
        if metadata is not None:
            usage = read_usage(metadata)
            output = max(usage.output_tokens, 0 if self.finished else self.received)
            self.usage = replace(usage, output_tokens=output, estimated=not self.finished)
        elif self.usage is not None and self.usage.estimated:
            self.usage.output_tokens = max(self.usage.output_tokens, self.received)
        if not self.finished or self.usage is None or self.usage.estimated or self._told_usage:
            return []
        self._told_usage = True
        return [self._chunks.usage(self.usage)]
