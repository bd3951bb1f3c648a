"""Anthropic's `/v1/messages` for callers: a Claude client's request as canonical chat, and the answer as it expects it.

Knows the one API; its requests, replies, streams and errors have a module each. Refuses to know who answers.

Source: https://platform.claude.com/docs/en/api/messages/create
"""

from __future__ import annotations

from llmops.gateway.calls import Fault, Json, Operation, Writer
from llmops.gateway.dialects.messages.errors import error_json
from llmops.gateway.dialects.messages.reply import message_reply
from llmops.gateway.dialects.messages.request import chat_request
from llmops.gateway.dialects.messages.stream import EventWriter
from llmops.gateway.reading import dumped


class Messages:
    """The dialect of Claude clients."""

    operation: Operation = "messages"

    def to_chat(self, body: Json) -> Json:
        return chat_request(body)

    def from_chat(self, reply: Json, request: Json) -> Json:
        return message_reply(reply, request)

    def writer(self, request: Json) -> Writer:
        return EventWriter(request)

    def error(self, fault: Fault, request_id: str) -> bytes:
        return dumped({"type": "error", "error": error_json(fault), "request_id": request_id})
