"""Says ConverseStream's events as chat chunks.

Knows the events' order: the message's start, its blocks, its stop, then the usage. An exception may stand anywhere,
and is told as any error is.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llmops.gateway.calls import Fault, Json
from llmops.gateway.eventstream import Frames, Message
from llmops.gateway.providers.bedrock.reply import (
    end_told,
    finish_reason,
    invoked_model,
    is_signed,
    named_fault,
    new_id,
    read_usage,
)
from llmops.gateway.providers.chunk_reader import ChunkReader
from llmops.gateway.reading import UPSTREAM


class ConverseReader(ChunkReader[Message]):
    """The chunks of one stream; usage comes with `metadata`, after the message's end."""

    def __init__(self, secret: str | None = None) -> None:
        super().__init__(secret)
        self._frames = Frames()
        self._calls: dict[int, int] = {}
        self._thoughts: dict[int, Json] = {}

    def _events(self, data: bytes) -> Iterable[Message]:
        return self._frames.feed(data)

    def _said(self, message: Message) -> list[Json]:
        headers = message.headers
        kind = headers.get(":message-type", "event")
        if kind == "error":
            raise self._fault(headers.get(":error-code", ""), headers.get(":error-message"))
        if kind == "exception":
            told = UPSTREAM.parsed(message.payload or b"{}", "exception")
            why = told.get("message", told.get("Message")) if isinstance(told, dict) else None
            raise self._fault(headers.get(":exception-type", ""), why)
        event = _SAID.get(headers.get(":event-type", ""))
        if event is None:
            return []
        return event(self, UPSTREAM.object(UPSTREAM.parsed(message.payload, "payload"), "payload"))

    def _fault(self, name: str, message: object) -> Fault:
        """Within a stream the names begin with a small letter."""
        return named_fault(name[:1].upper() + name[1:], message, secret=self._secret)

    def _begin(self, event: Json) -> list[Json]:
        return [self._chunks.begin(new_id(), "")]

    def _start(self, event: Json) -> list[Json]:
        start = UPSTREAM.object(event.get("start") or {}, "start")
        if start.get("toolUse") is None:
            return []
        use = UPSTREAM.object(start["toolUse"], "start.toolUse")
        name = UPSTREAM.text(use.get("name"), "start.toolUse.name")
        number = self._calls[_index(event)] = len(self._calls)
        self._tally.add(name)
        call = {"id": UPSTREAM.text(use.get("toolUseId"), "start.toolUse.toolUseId"), "type": "function"}
        return [self._call(number, {**call, "function": {"name": name, "arguments": ""}})]

    def _call(self, number: int, told: Json) -> Json:
        return self._chunks.delta({"tool_calls": [{"index": number, **told}]})

    def _delta(self, event: Json) -> list[Json]:
        delta = UPSTREAM.object(event.get("delta"), "delta")
        if delta.get("text") is not None:
            return self._piece("content", delta["text"])
        if delta.get("reasoningContent") is not None:
            return self._reasoning(_index(event), UPSTREAM.object(delta["reasoningContent"], "delta.reasoningContent"))
        if delta.get("toolUse") is not None:
            number = self._calls.get(_index(event))
            if number is None:
                raise UPSTREAM.fault("delta.toolUse", "belongs to no block that began")
            use = UPSTREAM.object(delta["toolUse"], "delta.toolUse")
            piece = UPSTREAM.text(use.get("input"), "delta.toolUse.input")
            self._tally.add(piece)
            return [self._call(number, {"function": {"arguments": piece}})] if piece else []
        return []

    def _piece(self, name: str, told: Any) -> list[Json]:
        text = UPSTREAM.text(told, f"delta.{name}")
        self._tally.add(text)
        return [self._chunks.delta({name: text})] if text else []

    def _reasoning(self, index: int, told: Json) -> list[Json]:
        """Kept whole until its block stops: only then can it be sent back."""
        if told.get("redactedContent") is not None:
            data = UPSTREAM.text(told["redactedContent"], "delta.reasoningContent.redactedContent")
            self._thoughts[index] = {"type": "redacted_thinking", "data": data}
            return []
        thought = self._thoughts.setdefault(index, {"type": "thinking", "thinking": "", "signature": ""})
        if thought["type"] != "thinking":
            raise UPSTREAM.fault("delta.reasoningContent", "is redacted, and goes on as text")
        signature = UPSTREAM.optional_text(told.get("signature"), "delta.reasoningContent.signature")
        thought["signature"] += signature or ""
        if told.get("text") is None:
            return []
        thought["thinking"] += UPSTREAM.text(told["text"], "delta.reasoningContent.text")
        return self._piece("reasoning_content", told["text"])

    def _stop(self, event: Json) -> list[Json]:
        index = _index(event)
        if index in self._calls:
            return []
        thought = self._thoughts.pop(index, {})
        return [self._chunks.delta({"thinking_blocks": [thought]})] if is_signed(thought) else []

    def _end(self, event: Json) -> list[Json]:
        reason = UPSTREAM.text(event.get("stopReason"), "stopReason")
        self.finished = True
        why = end_told(reason)
        return [self._chunks.delta({"refusal": why} if why else {}, finish_reason(reason))]

    def _metadata(self, event: Json) -> list[Json]:
        self.model = invoked_model(event.get("trace"))
        self.usage = read_usage(event.get("usage"))
        return [self._chunks.usage(self.usage)]


def _index(event: Json) -> int:
    return UPSTREAM.count(event.get("contentBlockIndex"), "contentBlockIndex")


_SAID: Mapping[str, Callable[[ConverseReader, Json], list[Json]]] = {
    "messageStart": ConverseReader._begin,
    "contentBlockStart": ConverseReader._start,
    "contentBlockDelta": ConverseReader._delta,
    "contentBlockStop": ConverseReader._stop,
    "messageStop": ConverseReader._end,
    "metadata": ConverseReader._metadata,
}
