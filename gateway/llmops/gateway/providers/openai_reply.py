"""Reads whole replies in OpenAI's formats: whether they have the right shape, what they used, how they ended.

Knows the usage fields of OpenAI and of servers that copy it; prices nothing and guesses nothing: usage that is missing
or makes no sense is None, and the engine estimates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from llmops.gateway.calls import Fault, Json, Operation, Reply, Usage
from llmops.gateway.providers.faults import stream_fault
from llmops.gateway.reading import MOST


def read_reply(operation: Operation, body: bytes, secret: str | None = None) -> Reply:
    """The reply to a native operation, its bytes unchanged.

    Raises:
        Fault: `invalid` where it is not the operation's format; what the server says where it is an error.
    """
    value = loaded(body)
    if value.get("error") and operation != "responses":
        raise stream_fault(value, secret)
    finish = _SHAPES[operation](value, secret)
    model = value.get("model")
    usage = read_rerank_usage(value) if operation == "rerank" else read_usage(value.get("usage"))
    return Reply(body, usage, model if isinstance(model, str) else None, finish)


def loaded(body: bytes) -> Json:
    """The JSON object in `body`; Fault(`invalid`) for anything else."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Fault("invalid", "the provider's reply is not JSON") from None
    if not isinstance(value, dict):
        raise Fault("invalid", "the provider's reply is not a JSON object")
    return value


def read_usage(usage: Any) -> Usage | None:
    """What a `usage` object says, in the words of chat (`prompt_tokens`) or of responses (`input_tokens`).

    Some servers leave reasoning out of `completion_tokens` and tell it by a larger `total_tokens`; it is output too.
    """
    if type(usage) is not dict:
        return None
    if (simple := _simple_usage(usage)) is not None:
        return simple
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    if prompt is None:
        return None
    output = _count(usage, "completion_tokens", "output_tokens")
    if output is None:
        if any(usage.get(name) is not None for name in ("completion_tokens", "output_tokens")):
            return None  # told, but as no number: not the same as none
        output = 0
    read = _details(usage, "prompt_tokens_details", "input_tokens_details")
    written = _details(usage, "completion_tokens_details", "output_tokens_details")
    reasoning = _count(written, "reasoning_tokens") or 0
    if reasoning and _count(usage, "total_tokens") == prompt + output + reasoning:
        output += reasoning
    cached = _count(read, "cached_tokens") or _count(usage, "prompt_cache_hit_tokens") or 0
    return Usage(
        input_tokens=prompt,
        output_tokens=output,
        cached_tokens=min(cached, prompt),
        cache_write_tokens=min(_count(read, "cache_write_tokens", "cache_creation_tokens") or 0, prompt),
        reasoning_tokens=min(reasoning, output),
    )


def _simple_usage(usage: Json) -> Usage | None:
    """The usual case, read with few steps: OpenAI's words, nothing cached, no reasoning."""
    prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(output) is not int:
        return None
    if not (0 <= prompt < MOST and 0 <= output < MOST):
        return None
    if usage.get("prompt_cache_hit_tokens"):
        return None
    read, written = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    if read and (type(read) is not dict or any(read.values())):
        return None
    if written and (type(written) is not dict or any(written.values())):
        return None
    return Usage(prompt, output)


def read_rerank_usage(value: Json) -> Usage | None:
    """Cohere's billed units, or the tokens that servers of open rerankers count."""
    meta = value.get("meta")
    units = meta.get("billed_units") if isinstance(meta, dict) else None
    searches = _count(units, "search_units") if isinstance(units, dict) else None
    usage = value.get("usage")
    tokens = _count(usage, "prompt_tokens", "total_tokens") if isinstance(usage, dict) else None
    if searches is None and tokens is None:
        return None
    return Usage(input_tokens=tokens or 0, searches=1 if searches is None else searches)


def _count(counts: Json, *names: str) -> int | None:
    for name in names:
        value = counts.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST:
            return value
        if isinstance(value, float) and 0 <= value < MOST and value.is_integer():
            return int(value)
    return None


def _details(usage: Json, *names: str) -> Json:
    for name in names:
        value = usage.get(name)
        if isinstance(value, dict):
            return value
    return {}


def _chat(value: Json, secret: str | None) -> str | None:
    first = _first_choice(value)
    for choice in value["choices"]:
        if type(choice.get("message")) is not dict:
            raise Fault("invalid", "the provider's reply has a choice without a message")
    reason = first.get("finish_reason")
    return reason if type(reason) is str else None


def _completions(value: Json, secret: str | None) -> str | None:
    first = _first_choice(value)
    if not isinstance(first.get("text"), str):
        raise Fault("invalid", "the provider's reply has a choice without a text")
    return _finish(first)


def _first_choice(value: Json) -> Json:
    choices = value.get("choices")
    if type(choices) is not list or not choices:
        raise Fault("invalid", "the provider's reply has no choices")
    for choice in choices:
        if type(choice) is not dict:
            raise Fault("invalid", "the provider's reply has no choices")
    first: Json = choices[0]
    return first


def _finish(choice: Json) -> str | None:
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) else None


def _responses(value: Json, secret: str | None) -> str | None:
    if isinstance(value.get("error"), dict):
        raise stream_fault(value["error"], secret)
    if not isinstance(value.get("output"), list):
        raise Fault("invalid", "the provider's reply has no output")
    status = value.get("status")
    return status if isinstance(status, str) else None


def _embeddings(value: Json, secret: str | None) -> str | None:
    data = value.get("data")
    if not isinstance(data, list) or not all(isinstance(entry, dict) and "embedding" in entry for entry in data):
        raise Fault("invalid", "the provider's reply has no embeddings")
    return None


def _rerank(value: Json, secret: str | None) -> str | None:
    results = value.get("results")
    if not isinstance(results, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("index"), int) for entry in results
    ):
        raise Fault("invalid", "the provider's reply has no results")
    return None


def _no_messages(value: Json, secret: str | None) -> str | None:
    raise Fault("invalid", "this provider does not speak the messages format")


_SHAPES: Final[dict[Operation, Callable[[Json, str | None], str | None]]] = {
    "chat": _chat,
    "completions": _completions,
    "responses": _responses,
    "messages": _no_messages,
    "embeddings": _embeddings,
    "rerank": _rerank,
}
