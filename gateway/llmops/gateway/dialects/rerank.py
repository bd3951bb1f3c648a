"""Rerank as callers speak it: Cohere's format, which vLLM, Jina and llama.cpp share; the canonical one too."""

from __future__ import annotations

from llmops.gateway.calls import Fault, Json, Operation, Writer
from llmops.gateway.dialects.embeddings import refuse_stream
from llmops.gateway.dialects.openai_errors import error_body
from llmops.gateway.reading import CALLER


class Rerank:
    """`/v1/rerank`. Nothing here is chat: `to_chat` checks the body, `from_chat` passes the reply on."""

    operation: Operation = "rerank"

    def to_chat(self, body: Json) -> Json:
        refuse_stream(body, "rerank")
        CALLER.text(body.get("query"), "query")
        documents = body.get("documents")
        if not isinstance(documents, list) or not documents:
            raise CALLER.fault("documents", "must be a list of at least one text")
        for number, document in enumerate(documents):
            if not isinstance(document, str | dict):
                raise CALLER.fault(f"documents.{number}", "must be a text or an object")
        CALLER.count(body.get("top_n"), "top_n")
        return body

    def from_chat(self, reply: Json, request: Json) -> Json:
        return reply

    def writer(self, request: Json) -> Writer:
        raise CALLER.fault("stream", "is not possible for rerank")

    def error(self, fault: Fault, request_id: str) -> bytes:
        return error_body(fault, request_id)
