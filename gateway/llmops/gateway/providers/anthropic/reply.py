"""Reads Anthropic's replies and says them as chat completions; reads its usage and its errors.

Knows the Message object and the error envelope. Anthropic's `input_tokens` leaves out what came from or went to the
cache; here, as in OpenAI's format, all input is counted.

Source: https://platform.claude.com/docs/en/api/messages/create, https://platform.claude.com/docs/en/api/errors,
https://platform.claude.com/docs/en/build-with-claude/prompt-caching#tracking-cache-performance
"""

from __future__ import annotations

import re
from dataclasses import replace

from llmops.gateway import answers
from llmops.gateway.calls import Fault, Headers, Json, Reply, Usage
from llmops.gateway.providers.faults import NO_QUOTA_RETRY_S, read_fault
from llmops.gateway.reading import UPSTREAM, dumped

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_NO_MONEY = re.compile(r"credit balance is too low|reached your specified .{0,40}usage limits", re.IGNORECASE)
_TOO_LONG = re.compile(r"prompt is too long|exceed context limit|context window", re.IGNORECASE)


def read_usage(told: object, before: Usage | None = None) -> Usage:
    """Usage as Anthropic tells it. In a stream numbers are cumulative, and those left out are as `before`."""
    usage = UPSTREAM.object(told, "usage")
    was = before or Usage()

    def number(name: str, otherwise: int) -> int:
        return otherwise if usage.get(name) is None else UPSTREAM.count(usage[name], f"usage.{name}")

    cached = number("cache_read_input_tokens", was.cached_tokens)
    written = number("cache_creation_input_tokens", was.cache_write_tokens)
    fresh = number("input_tokens", was.input_tokens - was.cached_tokens - was.cache_write_tokens)
    output = number("output_tokens", was.output_tokens)

    def detail(part: str, name: str, otherwise: int) -> int:
        details = usage.get(part)
        return UPSTREAM.count(details.get(name), f"usage.{part}.{name}") if isinstance(details, dict) else otherwise

    return Usage(
        input_tokens=fresh + cached + written,
        output_tokens=output,
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=detail("output_tokens_details", "thinking_tokens", was.reasoning_tokens),
        searches=detail("server_tool_use", "web_search_requests", was.searches),
        cache_write_long_tokens=detail("cache_creation", "ephemeral_1h_input_tokens", was.cache_write_long_tokens),
    )


def read_message(body: bytes) -> Json:
    """A whole 200 reply. Raises Fault(`invalid`), or the error it holds."""
    message = UPSTREAM.object(UPSTREAM.parsed(body, "body"), "body")
    if message.get("type") == "error":
        raise told_fault(message.get("error"), None)
    if message.get("type") != "message":
        raise UPSTREAM.fault("type", "is not `message`")
    return message


def native_reply(body: bytes) -> Reply:
    """The message as it came, with what must be booked of it."""
    message = read_message(body)
    usage = read_usage(message.get("usage"))
    UPSTREAM.objects(message.get("content"), "content")
    model = UPSTREAM.text(message.get("model"), "model")
    return Reply(body, usage, model, UPSTREAM.optional_text(message.get("stop_reason"), "stop_reason"))


def chat_reply(body: bytes) -> Reply:
    """The message as a chat completion."""
    told = read_message(body)
    usage = read_usage(told.get("usage"))
    model = UPSTREAM.text(told.get("model"), "model")
    finish = finish_reason(told.get("stop_reason"))
    message = _assistant(UPSTREAM.objects(told.get("content"), "content"))
    if finish == "content_filter":
        message["refusal"] = refusal(told.get("stop_details"))
    completion = answers.completion(UPSTREAM.text(told.get("id"), "id"), model, message, finish, usage)
    return Reply(dumped(completion), usage, model, finish)


def finish_reason(stop_reason: object) -> str:
    return FINISH.get(stop_reason, "stop") if isinstance(stop_reason, str) else "stop"


def refusal(details: object) -> str | None:
    """The explanation of a refusal, where there is one."""
    found = details.get("explanation") if isinstance(details, dict) else None
    return found if isinstance(found, str) else None


def _assistant(blocks: list[Json]) -> Json:
    texts, thoughts, thinking, calls = [], [], [], []
    for number, block in enumerate(blocks):
        where = f"content.{number}"
        kind = block.get("type")
        if kind == "text":
            texts.append(UPSTREAM.text(block.get("text"), f"{where}.text"))
        elif kind == "thinking":
            thoughts.append(UPSTREAM.text(block.get("thinking"), f"{where}.thinking"))
            thinking.append(block)
        elif kind == "redacted_thinking":
            thinking.append(block)
        elif kind == "tool_use":
            calls.append(_tool_call(block, where))
    return answers.assistant(texts, thoughts, calls, thinking)


def _tool_call(block: Json, where: str) -> Json:
    arguments = dumped(UPSTREAM.object(block.get("input"), f"{where}.input")).decode()
    function = {"name": UPSTREAM.text(block.get("name"), f"{where}.name"), "arguments": arguments}
    return {"id": UPSTREAM.text(block.get("id"), f"{where}.id"), "type": "function", "function": function}


def reply_fault(status: int, headers: Headers, body: bytes, secret: str | None) -> Fault:
    """An error reply. An empty account is told as 400, and is no mistake of the caller."""
    fault = read_fault(status, headers, body, secret)
    if fault.kind == "bad_request" and _NO_MONEY.search(fault.message):
        fault.kind, fault.status, fault.code = "rate_limited", 429, "insufficient_quota"
        fault.retry_after_s = NO_QUOTA_RETRY_S
    elif fault.kind == "bad_request" and _TOO_LONG.search(fault.message):
        fault.kind, fault.status, fault.code = "context_too_long", 400, "context_length_exceeded"
    return fault


def told_fault(error: object, secret: str | None) -> Fault:
    """The error of an `error` event, or of a 200 reply that is one."""
    kind = error.get("type") if isinstance(error, dict) else None
    status = _STATUS.get(kind, 500) if isinstance(kind, str) else 500
    return reply_fault(status, (), dumped({"error": error}), secret)


def estimated(usage: Usage | None, received: int) -> Usage | None:
    """What is known while a stream still runs: its input exactly, its output as counted here."""
    return None if usage is None else replace(usage, output_tokens=max(usage.output_tokens, received), estimated=True)
