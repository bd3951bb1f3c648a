"""OpenAI's embeddings as callers speak them; also the canonical form for providers with an API of their own."""

from __future__ import annotations

from llmops.gateway.calls import Fault, Json, Operation, Writer
from llmops.gateway.dialects.openai_errors import error_body
from llmops.gateway.reading import CALLER


class Embeddings:
    """`/v1/embeddings`. Nothing here is chat: `to_chat` checks the body, `from_chat` passes the reply on."""

    operation: Operation = "embeddings"

    def to_chat(self, body: Json) -> Json:
        refuse_stream(body, "embeddings")
        given = body.get("input")
        if not (isinstance(given, str) or (isinstance(given, list) and given)):
            raise CALLER.fault("input", "must be a text, a list of texts, or token ids")
        kinds = {type(item) for item in given} if isinstance(given, list) else {str}
        if len(kinds) != 1 or not kinds <= {str, int, list, dict}:
            raise CALLER.fault("input", "must hold texts only, or token ids only")
        if (encoding := body.get("encoding_format")) not in (None, "float", "base64"):
            raise CALLER.fault("encoding_format", f"must be float or base64, not {str(encoding)[:40]!r}")
        return body

    def from_chat(self, reply: Json, request: Json) -> Json:
        return reply

    def writer(self, request: Json) -> Writer:
        raise CALLER.fault("stream", "is not possible for embeddings")

    def error(self, fault: Fault, request_id: str) -> bytes:
        return error_body(fault, request_id)


def refuse_stream(body: Json, operation: str) -> None:
    if body.get("stream"):
        raise CALLER.fault("stream", f"is not possible for {operation}: leave it out")
