"""OpenAI's chat completions as callers speak them: the canonical format, so little is left to turn.

Checks what other providers' translations rely on, and writes chunks as events. Knows no provider.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmops.gateway import chat
from llmops.gateway.calls import Fault, Json, Operation, Writer
from llmops.gateway.dialects.openai_errors import error_body, error_json
from llmops.gateway.reading import CALLER, dumped

DONE = b"data: [DONE]\n\n"


class Chat:
    """`/v1/chat/completions`."""

    operation: Operation = "chat"

    def to_chat(self, body: Json) -> Json:
        """The body itself, once its outline is right."""
        flag(body, "stream")
        CALLER.object(body.get("stream_options") or {}, "stream_options")
        for where, message, _ in chat.messages(body):
            chat.parts(message.get("content"), f"{where}.content")
            CALLER.objects(message.get("tool_calls"), f"{where}.tool_calls")
        return body

    def from_chat(self, reply: Json, request: Json) -> Json:
        return reply

    def writer(self, request: Json) -> Writer:
        return ChatWriter(wants_usage=asks_usage(request))

    def error(self, fault: Fault, request_id: str) -> bytes:
        return error_body(fault, request_id)


class ChatWriter:
    """Chunks as events; the usage chunk only for those who asked."""

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage

    def feed(self, chunks: Sequence[Json]) -> bytes:
        return b"".join(
            [
                b"data: " + dumped(chunk) + b"\n\n"
                for chunk in chunks
                if chunk.get("choices") or self._wants_usage or not chunk.get("usage")
            ]
        )

    def end(self) -> bytes:
        return DONE

    def fault(self, fault: Fault) -> bytes:
        """OpenAI's clients raise whatever `error` an event holds."""
        return b"data: " + dumped({"error": error_json(fault)}) + b"\n\n"


def flag(body: Json, name: str) -> bool:
    """A field that is true, false or left out."""
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise CALLER.fault(name, "must be true or false")


def asks_usage(request: Json) -> bool:
    options = request.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
