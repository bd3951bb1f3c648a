"""OpenAI's Responses API as callers speak it, for upstreams that only chat.

Nothing is stored here: what names a stored thing (`previous_response_id`, `conversation`, a prompt, a file) and tools
that run at the provider are refused with the parameter's name. An upstream that offers responses itself never comes
through this dialect.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from llmops.gateway.calls import Fault, Json, Operation, Writer
from llmops.gateway.dialects.openai_errors import error_body
from llmops.gateway.dialects.responses.reply import from_chat
from llmops.gateway.dialects.responses.request import to_chat
from llmops.gateway.dialects.responses.stream import ResponsesWriter


class Responses:
    """`/v1/responses`."""

    operation: Operation = "responses"

    def to_chat(self, body: Json) -> Json:
        return to_chat(body)

    def from_chat(self, reply: Json, request: Json) -> Json:
        return from_chat(reply, request)

    def writer(self, request: Json) -> Writer:
        return ResponsesWriter(request)

    def error(self, fault: Fault, request_id: str) -> bytes:
        return error_body(fault, request_id)
