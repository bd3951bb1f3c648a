"""Reads Cohere's replies, whole and streamed, and says them as chat completions, chunks and embeddings.

Knows the v2 formats. Booked are Cohere's billed units, not the tokens its prompt template adds. Cohere names no model
in its replies. Thinking and the plan for tools are both the model's reasoning.

Source: https://docs.cohere.com/reference/chat, https://docs.cohere.com/v2/docs/streaming,
https://docs.cohere.com/reference/errors
"""

from __future__ import annotations

from llmops.gateway import answers
from llmops.gateway.calls import Fault, Json, Reply, Usage
from llmops.gateway.providers.openai_reply import read_rerank_usage
from llmops.gateway.reading import UPSTREAM, dumped

_FINISH = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "ERROR_LIMIT": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}


def read_usage(told: object) -> Usage | None:
    """Billed units where there are any, tokens otherwise."""
    usage = UPSTREAM.object(told or {}, "usage")
    units = usage.get("billed_units") or usage.get("tokens")
    if units is None:
        return None
    counted = UPSTREAM.object(units, "usage.billed_units")
    prompt = UPSTREAM.count(counted.get("input_tokens"), "usage.billed_units.input_tokens")
    return Usage(
        input_tokens=prompt,
        output_tokens=UPSTREAM.count(counted.get("output_tokens"), "usage.billed_units.output_tokens"),
        cached_tokens=min(UPSTREAM.count(usage.get("cached_tokens"), "usage.cached_tokens"), prompt),
        searches=UPSTREAM.count(counted.get("search_units"), "usage.billed_units.search_units"),
    )


def finish_reason(told: object) -> str:
    """Raises Fault(`server_error`) for an answer that failed."""
    reason = UPSTREAM.text(told, "finish_reason")
    if reason in ("ERROR", "TIMEOUT"):
        raise Fault("server_error", f"the provider ended the answer with {reason}")
    return _FINISH.get(reason, "stop")


def chat_reply(body: bytes) -> Reply:
    """A whole reply as a chat completion."""
    told = UPSTREAM.object(UPSTREAM.parsed(body, "body"), "body")
    answer = UPSTREAM.object(told.get("message"), "message")
    finish = finish_reason(told.get("finish_reason"))
    usage = read_usage(told.get("usage"))
    texts, thoughts = [], [UPSTREAM.optional_text(answer.get("tool_plan"), "message.tool_plan") or ""]
    for number, block in enumerate(UPSTREAM.objects(answer.get("content"), "message.content")):
        if block.get("type") == "text":
            texts.append(UPSTREAM.text(block.get("text"), f"message.content.{number}.text"))
        elif block.get("type") == "thinking":
            thoughts.append(UPSTREAM.text(block.get("thinking"), f"message.content.{number}.thinking"))
    called = UPSTREAM.objects(answer.get("tool_calls"), "message.tool_calls")
    calls = [tool_call(call, f"message.tool_calls.{number}") for number, call in enumerate(called)]
    message = answers.assistant(texts, thoughts, calls)
    completion = answers.completion(UPSTREAM.text(told.get("id"), "id"), "", message, finish, usage)
    return Reply(dumped(completion), usage, None, finish)


def tool_call(call: Json, where: str) -> Json:
    function = UPSTREAM.object(call.get("function"), f"{where}.function")
    return {
        "id": UPSTREAM.text(call.get("id"), f"{where}.id"),
        "type": "function",
        "function": {
            "name": UPSTREAM.text(function.get("name"), f"{where}.function.name"),
            "arguments": UPSTREAM.text(function.get("arguments") or "", f"{where}.function.arguments"),
        },
    }


def embed_reply(body: bytes) -> Reply:
    """The vectors in OpenAI's format."""
    told = UPSTREAM.object(UPSTREAM.parsed(body, "body"), "body")
    vectors = UPSTREAM.object(told.get("embeddings"), "embeddings").get("float")
    if not isinstance(vectors, list) or not all(isinstance(vector, list) for vector in vectors):
        raise UPSTREAM.fault("embeddings.float", "must be a list of lists")
    usage = read_usage(told.get("meta"))
    return Reply(dumped(answers.embeddings(vectors, "", usage)), usage)


def rerank_reply(body: bytes) -> Reply:
    """The ranking as it came: Cohere's format is the canonical one."""
    told = UPSTREAM.object(UPSTREAM.parsed(body, "body"), "body")
    for number, result in enumerate(UPSTREAM.objects(told.get("results"), "results")):
        UPSTREAM.count(result.get("index"), f"results.{number}.index")
        UPSTREAM.number(result.get("relevance_score"), f"results.{number}.relevance_score")
    return Reply(body, read_rerank_usage(told))
