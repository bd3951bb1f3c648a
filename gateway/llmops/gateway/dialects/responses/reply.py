"""A chat completion as a response: reasoning, message and calls become items of `output`.

Also the outline that whole and streamed responses share. Knows no event.
"""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from llmops.gateway.calls import Json
from llmops.gateway.providers.openai_reply import read_usage
from llmops.gateway.reading import UPSTREAM

_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""What a response repeats of its request, and what it says where the request said nothing."""

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def from_chat(reply: Json, request: Json) -> Json:
    """The response. Fault(`invalid`) where the chat completion is none."""
    choices = UPSTREAM.objects(reply.get("choices"), "choices")
    if not choices:
        raise UPSTREAM.fault("choices", "must hold an answer")
    message = UPSTREAM.object(choices[0].get("message"), "choices.0.message")
    ids = Ids(reply.get("id"))
    response = outline(ids, reply, request)
    close(response, choices[0].get("finish_reason"))
    items = response["output"]
    if reasoning := reasoning_text(message):
        items.append(reasoning_item(ids.next("rs"), reasoning))
    if parts := _parts(message, choices[0].get("logprobs")):
        items.append(message_item(ids.next("msg"), parts, response["status"]))
    for number, call in enumerate(UPSTREAM.objects(message.get("tool_calls"), "tool_calls")):
        items.append(_call_item(ids, call, f"tool_calls.{number}"))
    response["usage"] = usage_json(reply.get("usage"))
    return response


class Ids:
    """Ids of a response and its items, derived from the completion's, so that both can be found together."""

    def __init__(self, chat_id: Any) -> None:
        known = isinstance(chat_id, str) and chat_id
        self._base = str(chat_id).removeprefix("chatcmpl-")[:64] if known else uuid4().hex
        self._count = 0

    @property
    def response(self) -> str:
        return f"resp_{self._base}"

    def next(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{self._base}_{self._count}"


def outline(ids: Ids, reply: Json, request: Json) -> Json:
    """A response in progress: everything but its output."""
    created = reply.get("created")
    model = reply.get("model")
    response: Json = {
        "id": ids.response,
        "object": "response",
        "created_at": created if isinstance(created, int) and created > 0 else int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model if isinstance(model, str) else str(request.get("model", "")),
        "output": [],
        "previous_response_id": None,
        "store": False,
        "usage": None,
    }
    for name, default in _ECHOED.items():
        given = request.get(name)
        response[name] = default if given is None else given
    return response


def close(response: Json, finish: Any) -> None:
    """Set how the response ended."""
    reason = _INCOMPLETE.get(finish) if isinstance(finish, str) else None
    response["status"] = "incomplete" if reason else "completed"
    if reason:
        response["incomplete_details"] = {"reason": reason}
    else:
        response["completed_at"] = int(time.time())


def reasoning_text(message: Json) -> str:
    """The visible reasoning, under either of the names that servers give it."""
    for name in ("reasoning_content", "reasoning"):
        value = message.get(name)
        if isinstance(value, str) and value:
            return value
    return ""


def reasoning_item(id_: str, text: str) -> Json:
    summary = [{"type": "summary_text", "text": text}]
    return {"id": id_, "type": "reasoning", "summary": summary, "status": "completed"}


def message_item(id_: str, parts: list[Json], status: str) -> Json:
    return {"id": id_, "type": "message", "status": status, "role": "assistant", "content": parts}


def text_part(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def token_logprobs(logprobs: Any) -> list[Json]:
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return UPSTREAM.objects(content, "logprobs.content")


def usage_json(usage: Any) -> Json | None:
    """Chat's usage in the words of responses."""
    told = read_usage(usage)
    if told is None:
        return None
    return {
        "input_tokens": told.input_tokens,
        "input_tokens_details": {"cached_tokens": told.cached_tokens, "cache_write_tokens": told.cache_write_tokens},
        "output_tokens": told.output_tokens,
        "output_tokens_details": {"reasoning_tokens": told.reasoning_tokens},
        "total_tokens": told.input_tokens + told.output_tokens,
    }


def _parts(message: Json, logprobs: Any) -> list[Json]:
    parts = []
    content = message.get("content")
    if isinstance(content, list):
        texts = [
            UPSTREAM.optional_text(part.get("text"), "content.text") for part in UPSTREAM.objects(content, "content")
        ]
        content = "".join(text for text in texts if text)
    if text := UPSTREAM.optional_text(content, "content"):
        parts.append(text_part(text, token_logprobs(logprobs)))
    if refusal := UPSTREAM.optional_text(message.get("refusal"), "refusal"):
        parts.append({"type": "refusal", "refusal": refusal})
    return parts


def _call_item(ids: Ids, call: Json, where: str) -> Json:
    call_id = UPSTREAM.text(call.get("id"), f"{where}.id")
    if call.get("type") == "custom":
        custom = UPSTREAM.object(call.get("custom"), f"{where}.custom")
        item = custom_item(ids.next("ctc"), call_id, UPSTREAM.text(custom.get("name"), f"{where}.name"))
        return {**item, "input": UPSTREAM.text(custom.get("input"), f"{where}.input"), "status": "completed"}
    function = UPSTREAM.object(call.get("function"), f"{where}.function")
    item = function_item(ids.next("fc"), call_id, UPSTREAM.text(function.get("name"), f"{where}.name"))
    arguments = UPSTREAM.text(function.get("arguments") or "", f"{where}.arguments")
    return {**item, "arguments": arguments, "status": "completed"}


def function_item(id_: str, call_id: str, name: str) -> Json:
    return {
        "id": id_,
        "type": "function_call",
        "status": "in_progress",
        "call_id": call_id,
        "name": name,
        "arguments": "",
    }


def custom_item(id_: str, call_id: str, name: str) -> Json:
    return {
        "id": id_,
        "type": "custom_tool_call",
        "status": "in_progress",
        "call_id": call_id,
        "name": name,
        "input": "",
    }
