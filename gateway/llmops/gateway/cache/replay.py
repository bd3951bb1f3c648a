"""Says a whole reply as the stream it might have been: for a caller who wants a stream where the cache holds a whole.

Each text goes out in one event; nobody waits for words that are there already. Knows the four streamed formats; that
the reply is of the format is the cache's own doing.

Sources: https://platform.openai.com/docs/api-reference/chat-streaming, .../responses-streaming,
https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from llmops.gateway.calls import Json, Operation


def replayed(operation: Operation, reply: Json, request: Json) -> bytes | None:
    """The events of the whole stream; None for an operation that has no streams."""
    write = _WRITERS.get(operation)
    return b"".join(write(reply, request)) if write else None


def _data(value: Json) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _event(kind: str, value: Json) -> bytes:
    return b"event: " + kind.encode() + b"\n" + _data({"type": kind, **value})


def _dicts(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _wants_usage(request: Json) -> bool:
    options = request.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _chat(reply: Json, request: Json) -> Iterator[bytes]:
    head = {name: value for name, value in reply.items() if name not in ("choices", "usage", "object")}
    head["object"] = "chat.completion.chunk"
    for choice in _dicts(reply.get("choices")):
        index = choice.get("index", 0)
        told = choice.get("message")
        message = {name: value for name, value in told.items() if value is not None} if isinstance(told, dict) else {}
        calls = _dicts(message.pop("tool_calls", None))
        if calls:
            message["tool_calls"] = [{"index": number, **call} for number, call in enumerate(calls)]
        spoken = {"index": index, "delta": message, "logprobs": choice.get("logprobs"), "finish_reason": None}
        yield _data({**head, "choices": [spoken]})
        ended = {"index": index, "delta": {}, "logprobs": None, "finish_reason": choice.get("finish_reason") or "stop"}
        yield _data({**head, "choices": [ended]})
    yield from _last(reply, request, head)


def _completions(reply: Json, request: Json) -> Iterator[bytes]:
    head = {name: value for name, value in reply.items() if name not in ("choices", "usage")}
    for choice in _dicts(reply.get("choices")):
        yield _data({**head, "choices": [choice]})
    yield from _last(reply, request, head)


def _last(reply: Json, request: Json, head: Json) -> Iterator[bytes]:
    if _wants_usage(request):
        yield _data({**head, "choices": [], "usage": reply.get("usage")})
    yield b"data: [DONE]\n\n"


def _messages(reply: Json, request: Json) -> Iterator[bytes]:
    usage = reply.get("usage") or {}
    begun = {**reply, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 0}}
    yield _event("message_start", {"message": begun})
    for index, block in enumerate(_dicts(reply.get("content"))):
        empty, deltas = _block(block)
        yield _event("content_block_start", {"index": index, "content_block": empty})
        for delta in deltas:
            yield _event("content_block_delta", {"index": index, "delta": delta})
        yield _event("content_block_stop", {"index": index})
    ended = {"stop_reason": reply.get("stop_reason"), "stop_sequence": reply.get("stop_sequence")}
    yield _event("message_delta", {"delta": ended, "usage": {"output_tokens": usage.get("output_tokens", 0)}})
    yield _event("message_stop", {})


def _block(block: Json) -> tuple[Json, list[Json]]:
    """A content block as it begins, and what fills it."""
    kind = block.get("type")
    if kind == "text":
        deltas = [{"type": "text_delta", "text": block.get("text", "")}]
        deltas += [{"type": "citations_delta", "citation": one} for one in _dicts(block.get("citations"))]
        return {"type": "text", "text": ""}, deltas
    if kind in ("tool_use", "server_tool_use"):
        written = orjson.dumps(block.get("input") or {}).decode()
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": written}]
    if kind == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": block.get("thinking", "")}]
        if block.get("signature"):
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    return block, []


def _responses(reply: Json, request: Json) -> Iterator[bytes]:
    number = -1

    def event(kind: str, value: Json) -> bytes:
        nonlocal number
        number += 1
        return _event(kind, {"sequence_number": number, **value})

    begun = {**reply, "status": "in_progress", "output": [], "usage": None}
    yield event("response.created", {"response": begun})
    yield event("response.in_progress", {"response": begun})
    for index, item in enumerate(_dicts(reply.get("output"))):
        place = {"output_index": index}
        yield event("response.output_item.added", {**place, "item": _unfilled(item)})
        for kind, value in _filling(item):
            yield event(kind, {**place, "item_id": item.get("id"), **value})
        yield event("response.output_item.done", {**place, "item": item})
    ended = "response.incomplete" if reply.get("status") == "incomplete" else "response.completed"
    yield event(ended, {"response": reply})


def _unfilled(item: Json) -> Json:
    empty = {**item, "status": "in_progress"}
    for name, nothing in (("content", []), ("arguments", ""), ("summary", []), ("input", "")):
        if name in item:
            empty[name] = nothing
    return empty


def _filling(item: Json) -> Iterator[tuple[str, Json]]:
    """The events between an item's beginning and its end."""
    if item.get("type") == "function_call":
        arguments = item.get("arguments", "")
        yield "response.function_call_arguments.delta", {"delta": arguments}
        yield "response.function_call_arguments.done", {"arguments": arguments, "name": item.get("name")}
    for place, part in enumerate(_dicts(item.get("content"))):
        at = {"content_index": place}
        kind, field = ("refusal", "refusal") if part.get("type") == "refusal" else ("output_text", "text")
        empty = {**part, field: "", **({"annotations": []} if kind == "output_text" else {})}
        yield "response.content_part.added", {**at, "part": empty}
        yield f"response.{kind}.delta", {**at, "delta": part.get(field, "")}
        yield f"response.{kind}.done", {**at, field: part.get(field, "")}
        yield "response.content_part.done", {**at, "part": part}
    for place, part in enumerate(_dicts(item.get("summary"))):
        at = {"summary_index": place}
        yield "response.reasoning_summary_part.added", {**at, "part": {**part, "text": ""}}
        yield "response.reasoning_summary_text.delta", {**at, "delta": part.get("text", "")}
        yield "response.reasoning_summary_text.done", {**at, "text": part.get("text", "")}
        yield "response.reasoning_summary_part.done", {**at, "part": part}


_WRITERS: Mapping[Operation, Callable[[Json, Json], Iterator[bytes]]] = {
    "chat": _chat,
    "completions": _completions,
    "messages": _messages,
    "responses": _responses,
}
