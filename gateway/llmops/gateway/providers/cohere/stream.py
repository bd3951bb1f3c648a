"""Says Cohere's stream as chat chunks.

Source: https://docs.cohere.com/v2/docs/streaming, https://docs.cohere.com/docs/tool-use-streaming
"""

from __future__ import annotations

from typing import Any

from llmops.gateway.calls import Fault, Json
from llmops.gateway.providers.chunk_reader import SseReader
from llmops.gateway.providers.cohere.reply import finish_reason, read_usage, tool_call
from llmops.gateway.providers.faults import scrubbed, stream_fault
from llmops.gateway.reading import UPSTREAM


class EventReader(SseReader):
    """The chunks of one stream; usage comes with `message-end` alone."""

    _END = b"[DONE]"

    def __init__(self, secret: str | None = None) -> None:
        super().__init__(secret)
        self._calls = 0

    def _said(self, event: Json) -> list[Json]:
        kind = event.get("type")
        if kind is None and event.get("message"):
            raise stream_fault(event, self._secret)
        delta = UPSTREAM.object(event.get("delta") or {}, "delta")
        if kind == "message-start":
            return [self._chunks.begin(UPSTREAM.text(event.get("id"), "id"), "")]
        if kind == "message-end":
            return self._end(delta)
        message = UPSTREAM.object(delta.get("message") or {}, "delta.message")
        if kind in ("content-start", "content-delta"):
            return self._content(UPSTREAM.object(message.get("content") or {}, "delta.message.content"))
        if kind == "tool-plan-delta":
            return self._piece("reasoning_content", message.get("tool_plan"))
        if kind in ("tool-call-start", "tool-call-delta"):
            return self._call(str(kind), UPSTREAM.object(message.get("tool_calls"), "delta.message.tool_calls"))
        return []

    def _content(self, content: Json) -> list[Json]:
        return self._piece("reasoning_content", content.get("thinking")) + self._piece("content", content.get("text"))

    def _piece(self, name: str, told: Any) -> list[Json]:
        text = UPSTREAM.optional_text(told, f"delta.message.{name}")
        if not text:
            return []
        self._tally.add(text)
        return [self._chunks.delta({name: text})]

    def _call(self, kind: str, told: Json) -> list[Json]:
        if kind == "tool-call-start":
            call, self._calls = tool_call(told, "delta.message.tool_calls"), self._calls + 1
            self._tally.add(call["function"]["name"] + call["function"]["arguments"])
        else:
            function = UPSTREAM.object(told.get("function"), "delta.message.tool_calls.function")
            piece = UPSTREAM.text(function.get("arguments"), "delta.message.tool_calls.function.arguments")
            self._tally.add(piece)
            call = {"function": {"arguments": piece}}
        return [self._chunks.delta({"tool_calls": [{"index": max(self._calls - 1, 0), **call}]})]

    def _end(self, delta: Json) -> list[Json]:
        if delta.get("usage") is not None:
            self.usage = read_usage(delta["usage"])
        if isinstance(delta.get("error"), str):
            raise Fault("server_error", scrubbed(delta["error"], self._secret))
        chunks = [self._chunks.delta({}, finish_reason(delta.get("finish_reason")))]
        self.finished = True
        return chunks if self.usage is None else [*chunks, self._chunks.usage(self.usage)]
