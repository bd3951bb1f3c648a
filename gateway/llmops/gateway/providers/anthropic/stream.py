"""Follows Anthropic's event streams: to pass them on while reading the usage, or to say them as chat chunks.

Knows the events' order and their usage: input in `message_start`, the rest, cumulative, in `message_delta`. Until the
latter came, usage is marked estimated: the input as told, the output as counted here.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from llmops.gateway.calls import Fault, Json, Usage
from llmops.gateway.providers.anthropic.reply import estimated, finish_reason, read_usage, refusal, told_fault
from llmops.gateway.providers.chunk_reader import Progress, SseReader
from llmops.gateway.reading import UPSTREAM, dumped
from llmops.gateway.sse import Splitter

_DELTA = b"event: content_block_delta\n"
_TEXT = re.compile(rb'"(?:text|partial_json|thinking)":\s?"((?:[^"\\]++|\\.)++)"')


class Following(Progress):
    """What both ways of following a stream know: usage, model, whether it is at its end."""

    def __init__(self, secret: str | None = None) -> None:
        super().__init__(secret)
        self._told: Usage | None = None

    def follow(self, kind: Any, event: Json) -> None:
        """Take note of one event; raises the Fault that it tells."""
        if kind == "content_block_delta":
            self._count(UPSTREAM.object(event.get("delta"), "delta"))
        elif kind == "message_start":
            message = UPSTREAM.object(event.get("message"), "message")
            self.model = UPSTREAM.optional_text(message.get("model"), "message.model")
            self._told = read_usage(message.get("usage"))
            self.usage = estimated(self._told, 0)
        elif kind == "message_delta":
            if event.get("usage") is not None:
                self.usage = self._told = read_usage(event["usage"], self._told)
        elif kind == "message_stop":
            self.finished = True
        elif kind == "error":
            raise told_fault(event.get("error"), self._secret)

    def _count(self, delta: Json) -> None:
        piece = delta.get("text") or delta.get("partial_json") or delta.get("thinking")
        if isinstance(piece, str):
            self._tally.add(piece)
        self._estimate()

    def _estimate(self) -> None:
        if self.usage is not None and self.usage.estimated:
            self.usage.output_tokens = max(self.usage.output_tokens, self._tally.tokens)


class MessagesRelay(Following):
    """Passes a Messages stream on to a Claude client, byte for byte; an error within it is told by `fault` alone.

    Most events are deltas of which nothing needs to be known but how long they are, so those are not parsed.
    """

    def __init__(self, secret: str | None = None) -> None:
        super().__init__(secret)
        self._splitter = Splitter()
        self._reader = Splitter()

    def feed(self, data: bytes) -> bytes:
        if self.fault is not None:
            return b""
        if data.startswith(_DELTA) and not self._splitter.pending and data.endswith(b"\n\n"):
            count = data.count(_DELTA)
            if data.count(b"event:") == data.count(b"\n\n") == count:
                for text in _TEXT.findall(data):
                    self._tally.add_escaped(text)
                self._estimate()
                return data
        try:
            whole = self._splitter.whole(data)
            for _, told in self._reader.feed(whole):
                event = UPSTREAM.object(UPSTREAM.parsed(told, "data"), "data")
                self.follow(event.get("type"), event)
        except Fault as fault:
            self.fault = fault
        return b"" if self.fault is not None else whole


class ChatReader(Following, SseReader):
    """Says a Messages stream as chat chunks."""

    def __init__(self, secret: str | None = None) -> None:
        super().__init__(secret)
        self._blocks: dict[int, Json] = {}
        self._calls = 0

    def _said(self, event: Json) -> list[Json]:
        kind = event.get("type")
        self.follow(kind, event)
        told = _SAID.get(kind) if isinstance(kind, str) else None
        return [] if told is None else told(self, event)

    def _begin(self, event: Json) -> list[Json]:
        return [self._chunks.begin(UPSTREAM.text(event["message"].get("id"), "message.id"), self.model or "")]

    def _last(self, event: Json) -> list[Json]:
        return [] if self.usage is None else [self._chunks.usage(self.usage)]

    def _block(self, event: Json) -> Json:
        return self._blocks.get(UPSTREAM.count(event.get("index"), "index"), {})

    def _start(self, event: Json) -> list[Json]:
        """Keeps what a block still needs at its end: its tool's number, or the thinking that its signature closes."""
        index = UPSTREAM.count(event.get("index"), "index")
        block = dict(UPSTREAM.object(event.get("content_block"), "content_block"))
        self._blocks[index] = block
        if block.get("type") == "tool_use":
            block["number"], block["streamed"] = self._calls, False
            self._calls += 1
            name = UPSTREAM.text(block.get("name"), "content_block.name")
            call = {"id": UPSTREAM.text(block.get("id"), "content_block.id"), "type": "function"}
            return [self._call(block, {**call, "function": {"name": name, "arguments": ""}})]
        if block.get("type") == "text" and block.get("text"):
            return [self._chunks.delta({"content": UPSTREAM.text(block["text"], "content_block.text")})]
        return []

    def _call(self, block: Json, told: Json) -> Json:
        return self._chunks.delta({"tool_calls": [{"index": block["number"], **told}]})

    def _delta(self, event: Json) -> list[Json]:
        block, delta = self._block(event), UPSTREAM.object(event.get("delta"), "delta")
        kind = delta.get("type")
        if kind == "text_delta":
            return [self._chunks.delta({"content": UPSTREAM.text(delta.get("text"), "delta.text")})]
        if kind == "input_json_delta" and block.get("type") == "tool_use":
            piece = UPSTREAM.text(delta.get("partial_json"), "delta.partial_json")
            block["streamed"] = block["streamed"] or bool(piece)
            return [self._call(block, {"function": {"arguments": piece}})] if piece else []
        if kind == "thinking_delta":
            piece = UPSTREAM.text(delta.get("thinking"), "delta.thinking")
            block["thinking"] = f"{block.get('thinking') or ''}{piece}"
            return [self._chunks.delta({"reasoning_content": piece})]
        if kind == "signature_delta":
            piece = UPSTREAM.text(delta.get("signature"), "delta.signature")
            block["signature"] = f"{block.get('signature') or ''}{piece}"
        return []

    def _stop(self, event: Json) -> list[Json]:
        block = self._block(event)
        kind = block.get("type")
        if kind == "tool_use" and not block["streamed"]:
            arguments = dumped(UPSTREAM.object(block.get("input") or {}, "content_block.input")).decode()
            return [self._call(block, {"function": {"arguments": arguments}})]
        if kind in ("thinking", "redacted_thinking"):
            return [self._chunks.delta({"thinking_blocks": [block]})]
        return []

    def _end(self, event: Json) -> list[Json]:
        delta = UPSTREAM.object(event.get("delta"), "delta")
        if delta.get("stop_reason") is None:
            return []
        finish = finish_reason(delta["stop_reason"])
        told: Json = {}
        if finish == "content_filter" and (why := refusal(delta.get("stop_details"))):
            told["refusal"] = why
        return [self._chunks.delta(told, finish)]


_SAID: Mapping[str, Callable[[ChatReader, Json], list[Json]]] = {
    "message_start": ChatReader._begin,
    "content_block_start": ChatReader._start,
    "content_block_delta": ChatReader._delta,
    "content_block_stop": ChatReader._stop,
    "message_delta": ChatReader._end,
    "message_stop": ChatReader._last,
}
