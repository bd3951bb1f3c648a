"""Says a stream of chat chunks as Anthropic's events.

Knows their order: `message_start`, then each block from its start to its stop, one after the other, `message_delta`
with the usage, `message_stop`. Since chat tells usage last, `message_start` says 0 tokens and
`message_delta` all of them.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmops.gateway.calls import Fault, Json
from llmops.gateway.dialects.messages.errors import error_json
from llmops.gateway.dialects.messages.reply import message_id, reasoning_text, stop_details, stop_reason, usage
from llmops.gateway.reading import UPSTREAM, dumped

_EMPTY: dict[str, Json] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


class EventWriter:
    """The events of one streamed message."""

    def __init__(self, request: Json) -> None:
        self._request = request
        self._out: list[bytes] = []
        self._started = False
        self._index = -1
        self._open: str | None = None
        self._tools: dict[int, int] = {}
        self._choice: Json = {}
        self._refusal = ""
        self._usage: Any = None

    def feed(self, chunks: Sequence[Json]) -> bytes:
        for chunk in chunks:
            self._start(chunk)
            if isinstance(chunk.get("usage"), dict):
                self._usage = chunk["usage"]
            for choice in UPSTREAM.objects(chunk.get("choices"), "choices")[:1]:
                self._take(UPSTREAM.object(choice.get("delta") or {}, "choices.0.delta"))
                if choice.get("finish_reason") is not None:
                    self._choice = choice
        return self._flushed()

    def end(self) -> bytes:
        self._start({})
        self._close()
        reason, sequence = stop_reason(self._choice, self._request, bool(self._tools))
        details = stop_details(reason, self._refusal)
        delta = {"stop_reason": reason, "stop_sequence": sequence, "stop_details": details}
        self._event("message_delta", {"delta": delta, "usage": usage(self._usage)})
        self._event("message_stop", {})
        return self._flushed()

    def fault(self, fault: Fault) -> bytes:
        self._event("error", {"error": error_json(fault)})
        return self._flushed()

    def _flushed(self) -> bytes:
        ready = b"".join(self._out)
        self._out.clear()
        return ready

    def _event(self, name: str, told: Json) -> None:
        self._out.append(b"event: %b\ndata: %b\n\n" % (name.encode(), dumped({"type": name, **told})))

    def _start(self, chunk: Json) -> None:
        if self._started:
            return
        self._started = True
        model = chunk.get("model")
        message: Json = {
            "id": message_id(chunk.get("id")),
            "type": "message",
            "role": "assistant",
            "model": model if isinstance(model, str) else "",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage(chunk.get("usage")),
        }
        self._event("message_start", {"message": message})

    def _take(self, delta: Json) -> None:
        if thought := reasoning_text(delta):
            self._put("thinking", {"type": "thinking_delta", "thinking": thought})
        for block in UPSTREAM.objects(delta.get("thinking_blocks"), "thinking_blocks"):
            self._thinking_block(block)
        for name in ("content", "refusal"):
            text = delta.get(name)
            if isinstance(text, str) and text:
                self._refusal += text if name == "refusal" else ""
                self._put("text", {"type": "text_delta", "text": text})
        for call in UPSTREAM.objects(delta.get("tool_calls"), "tool_calls"):
            self._tool(call)

    def _put(self, kind: str, delta: Json) -> None:
        if self._open != kind:
            self._begin(kind, _EMPTY[kind])
        self._event("content_block_delta", {"index": self._index, "delta": delta})

    def _begin(self, kind: str, block: Json) -> None:
        self._close()
        self._index += 1
        self._open = kind
        self._event("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> None:
        if self._open is not None:
            self._event("content_block_stop", {"index": self._index})
            self._open = None

    def _thinking_block(self, block: Json) -> None:
        """A block whole: its text went out as reasoning already, so that only the signature is left to say."""
        if block.get("type") == "redacted_thinking":
            self._begin("redacted_thinking", block)
        else:
            if self._open != "thinking":
                self._put("thinking", {"type": "thinking_delta", "thinking": str(block.get("thinking") or "")})
            signature = str(block.get("signature") or "")
            self._put("thinking", {"type": "signature_delta", "signature": signature})
        self._close()

    def _tool(self, call: Json) -> None:
        number = UPSTREAM.count(call.get("index"), "tool_calls.index")
        function = UPSTREAM.object(call.get("function") or {}, "tool_calls.function")
        if number not in self._tools:
            block: Json = {
                "type": "tool_use",
                "id": UPSTREAM.text(call.get("id"), "tool_calls.id"),
                "name": UPSTREAM.text(function.get("name"), "tool_calls.function.name"),
                "input": {},
            }
            if call.get("extra_content") is not None:
                block["extra_content"] = call["extra_content"]
            self._begin("tool_use", block)
            self._tools[number] = self._index
        piece = function.get("arguments")
        if isinstance(piece, str) and piece:
            delta = {"type": "input_json_delta", "partial_json": piece}
            self._event("content_block_delta", {"index": self._tools[number], "delta": delta})
