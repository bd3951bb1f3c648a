"""Cohere's API v2 for tests: chat whole and streamed, embed, rerank.

Source: https://docs.cohere.com/reference/chat, https://docs.cohere.com/v2/docs/streaming,
https://docs.cohere.com/docs/tool-use-streaming, https://docs.cohere.com/reference/embed,
https://docs.cohere.com/reference/rerank
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.support.upstreams.wire import KEY, Answer, Call, Charge, Seen, WireServer, need, only

_FIELDS = {
    "/v2/chat": (
        "model messages stream max_tokens temperature p k seed frequency_penalty presence_penalty stop_sequences "
        "response_format tools strict_tools tool_choice thinking documents citation_options safety_mode logprobs"
    ),
    "/v2/embed": "model texts images inputs input_type embedding_types output_dimension truncate max_tokens",
    "/v2/rerank": "model query documents top_n max_tokens_per_doc priority",
}
_ID = "29f14a5a-11de-4cae-9800-25e4747408ea"
PLAN = "I will look up what was asked."


class CohereServer(WireServer):
    """`url` is the base URL, without a version."""

    def check(self, seen: Seen) -> None:
        need(seen.headers.get("authorization") == f"Bearer {KEY}", "invalid api token", 401)
        need(seen.path in _FIELDS, "not found", 404)
        only(seen.body, _FIELDS[seen.path], "invalid request: unknown field ")
        need(isinstance(seen.body.get("model"), str), "model is required")
        {"/v2/chat": _check_chat, "/v2/embed": _check_embed, "/v2/rerank": _check_rerank}[seen.path](seen.body)

    def streams(self, seen: Seen) -> bool:
        return seen.body.get("stream") is True

    def whole(self, seen: Seen, answer: Answer) -> dict[str, Any]:
        if seen.path == "/v2/embed":
            vectors = [[0.5, -0.5, float(number)] for number, _ in enumerate(seen.body["texts"])]
            meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": seen.input_tokens}}
            return {"id": _ID, "embeddings": {"float": vectors}, "texts": seen.body["texts"], "meta": meta}
        if seen.path == "/v2/rerank":
            return _ranking(seen)
        message: dict[str, Any] = {"role": "assistant", "content": _content(answer)}
        if answer.tools:
            message = {"role": "assistant", "tool_plan": PLAN, "tool_calls": [_call(call) for call in answer.tools]}
        return {
            "id": _ID,
            "finish_reason": _finish(answer),
            "message": message,
            "usage": _usage(seen, answer),
        }

    def cost(self, seen: Seen, answer: Answer) -> Charge:
        if seen.path == "/v2/chat":
            return super().cost(seen, answer)
        return Charge(seen.input_tokens if seen.path == "/v2/embed" else 0, 0)

    def events(self, seen: Seen, answer: Answer) -> Iterator[tuple[bytes, int]]:
        start = {"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}}
        yield _event("message-start", id=_ID, delta=start), 0
        yield from _tool_events(answer.tools) if answer.tools else _content_events(answer)
        delta = {"finish_reason": _finish(answer), "usage": _usage(seen, answer)}
        yield _event("message-end", id=_ID, delta=delta), 0
        yield b"data: [DONE]\n\n", 0

    def error(self, status: int, kind: str, message: str) -> dict[str, Any]:
        return {"id": _ID, "message": message}

    def error_event(self, kind: str, message: str) -> bytes:
        return _event("message-end", id=_ID, delta={"finish_reason": "ERROR", "error": message})


def _event(kind: str, **told: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **told})}\n\n".encode()


def _finish(answer: Answer) -> str:
    return answer.stop or ("TOOL_CALL" if answer.tools else "COMPLETE")


def _usage(seen: Seen, answer: Answer) -> dict[str, Any]:
    """Numbers with a point, as Cohere writes them; the template's tokens are used and not billed."""
    billed = {"input_tokens": float(seen.input_tokens), "output_tokens": float(answer.output_tokens)}
    tokens = {"input_tokens": seen.input_tokens + 180.0, "output_tokens": answer.output_tokens + 2.0}
    return {"billed_units": billed, "tokens": tokens, "cached_tokens": float(answer.cached)}


def _content(answer: Answer) -> list[dict[str, Any]]:
    content = [{"type": "thinking", "thinking": answer.thinking}] if answer.thinking else []
    return [*content, {"type": "text", "text": "".join(answer.pieces)}]


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _content_events(answer: Answer) -> Iterator[tuple[bytes, int]]:
    blocks = [("thinking", answer.thinking.split(" "))] if answer.thinking else []
    for index, (kind, pieces) in enumerate([*blocks, ("text", list(answer.pieces))]):
        empty = {"message": {"content": {"type": kind, kind: ""}}}
        yield _event("content-start", index=index, delta=empty), 0
        for piece in pieces:
            yield _event("content-delta", index=index, delta={"message": {"content": {kind: piece}}}), 1
        yield _event("content-end", index=index), 0


def _tool_events(calls: tuple[Call, ...]) -> Iterator[tuple[bytes, int]]:
    for word in PLAN.split(" "):
        yield _event("tool-plan-delta", delta={"message": {"tool_plan": word + " "}}), 0
    for index, call in enumerate(calls):
        told = _call(call)
        arguments, told["function"]["arguments"] = told["function"]["arguments"], ""
        yield _event("tool-call-start", index=index, delta={"message": {"tool_calls": told}}), 5
        for cut in range(0, len(arguments), 5):
            delta = {"message": {"tool_calls": {"function": {"arguments": arguments[cut : cut + 5]}}}}
            yield _event("tool-call-delta", index=index, delta=delta), 0
        yield _event("tool-call-end", index=index), 0


def _ranking(seen: Seen) -> dict[str, Any]:
    count = len(seen.body["documents"])
    ranked = [{"index": number, "relevance_score": 1 / (2 + number)} for number in reversed(range(count))]
    ranked.sort(key=lambda result: -result["relevance_score"])
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return {"id": _ID, "results": ranked[: seen.body.get("top_n", count)], "meta": meta}


def _check_chat(body: dict[str, Any]) -> None:
    messages = body.get("messages")
    need(isinstance(messages, list) and messages, "messages is required")
    known: set[str] = set()
    for message in messages:
        role = message.get("role")
        need(role in ("system", "user", "assistant", "tool"), f"invalid role {role}")
        fields = {"tool": "role content tool_call_id", "assistant": "role content tool_calls tool_plan citations"}
        only(message, fields.get(role, "role content"), f"invalid message: {role}.")
        if role == "tool":
            need(message.get("tool_call_id") in known, "tool_call_id does not match any tool call")
        known |= {call["id"] for call in message.get("tool_calls", [])}
        for call in message.get("tool_calls", []):
            json.loads(call["function"]["arguments"])
        need(role == "assistant" or isinstance(message.get("content"), (str, list)), "content is required")
    need(0 <= body.get("frequency_penalty", 0) <= 1, "frequency_penalty must be between 0 and 1")
    need(body.get("tool_choice") in (None, "REQUIRED", "NONE"), "invalid tool_choice")
    need("tool_choice" not in body or body.get("tools"), "tool_choice needs tools")
    only(body.get("thinking", {}), "type token_budget", "thinking.")
    only(body.get("response_format", {}), "type json_schema", "response_format.")
    need(body.get("response_format", {}).get("type") in (None, "text", "json_object"), "invalid response_format.type")
    need(len(body.get("stop_sequences", [])) <= 5, "too many stop_sequences")


def _check_embed(body: dict[str, Any]) -> None:
    purposes = ("search_document", "search_query", "classification", "clustering", "image")
    need(body.get("input_type") in purposes, "input_type is required")
    need(1 <= len(body.get("texts", [])) <= 96, "at most 96 texts")
    need(body.get("output_dimension", 256) in (256, 512, 1024, 1536), "invalid output_dimension")


def _check_rerank(body: dict[str, Any]) -> None:
    need(isinstance(body.get("query"), str), "query is required")
    documents = body.get("documents")
    need(isinstance(documents, list) and documents, "documents is required")
    need(all(isinstance(document, str) for document in documents), "documents must be strings")
    need(body.get("top_n", 1) >= 1, "top_n must be at least 1")
