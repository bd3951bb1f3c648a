"""Says a chat completion as an Anthropic message.

Knows both shapes of a whole reply and both ways of counting: Anthropic's `input_tokens` leaves out cached input.

Source: https://platform.claude.com/docs/en/api/messages/create,
https://platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming (broken tool input)
"""

from __future__ import annotations

from typing import Any

import orjson

from llmops.gateway.calls import Json
from llmops.gateway.reading import UPSTREAM

_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def message_reply(reply: Json, request: Json) -> Json:
    """The message a Claude client expects. Raises Fault(`invalid`) where the reply is no chat completion."""
    choices = UPSTREAM.objects(reply.get("choices"), "choices")
    if not choices:
        raise UPSTREAM.fault("choices", "is empty")
    told = UPSTREAM.object(choices[0].get("message"), "choices.0.message")
    blocks = _blocks(told)
    reason, sequence = stop_reason(choices[0], request, any(block["type"] == "tool_use" for block in blocks))
    return {
        "id": message_id(reply.get("id")),
        "type": "message",
        "role": "assistant",
        "model": str(reply.get("model") or ""),
        "content": blocks,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "stop_details": stop_details(reason, told.get("refusal")),
        "usage": usage(reply.get("usage")),
    }


def message_id(id_: Any) -> str:
    """Anthropic's ids begin with `msg_`."""
    text = id_ if isinstance(id_, str) else ""
    return text if text.startswith("msg_") else f"msg_{text.removeprefix('chatcmpl-')}"


def stop_reason(choice: Json, request: Json, has_tools: bool) -> tuple[str, str | None]:
    """Why the model stopped, and at which stop sequence where the server says so (vLLM does, as `stop_reason`)."""
    finish, matched = choice.get("finish_reason"), choice.get("stop_reason")
    reason = _STOP.get(finish, "end_turn") if isinstance(finish, str) else "end_turn"
    if reason == "end_turn" and has_tools:
        return "tool_use", None
    wanted = request.get("stop_sequences")
    if reason == "end_turn" and isinstance(matched, str) and isinstance(wanted, list) and matched in wanted:
        return "stop_sequence", matched
    return reason, None


def stop_details(reason: str, refusal: Any) -> Json | None:
    if reason != "refusal":
        return None
    explanation = refusal if isinstance(refusal, str) and refusal else None
    return {"type": "refusal", "category": None, "explanation": explanation}


def usage(told: Any) -> Json:
    """Anthropic's usage of OpenAI's."""
    found = told if isinstance(told, dict) else {}
    read, written = (_details(found, f"{side}_tokens_details") for side in ("prompt", "completion"))
    cached = UPSTREAM.count(read.get("cached_tokens"), "usage.prompt_tokens_details.cached_tokens")
    created = UPSTREAM.count(read.get("cache_write_tokens"), "usage.prompt_tokens_details.cache_write_tokens")
    prompt = UPSTREAM.count(found.get("prompt_tokens"), "usage.prompt_tokens")
    thinking = UPSTREAM.count(written.get("reasoning_tokens"), "usage.completion_tokens_details.reasoning_tokens")
    return {
        "input_tokens": max(prompt - cached - created, 0),
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": created,
        "output_tokens": UPSTREAM.count(found.get("completion_tokens"), "usage.completion_tokens"),
        "output_tokens_details": {"thinking_tokens": thinking},
    }


def _details(found: Json, name: str) -> Json:
    details = found.get(name)
    return details if isinstance(details, dict) else {}


def _blocks(told: Json) -> list[Json]:
    blocks = thinking_blocks(told)
    for text in (told.get("content"), told.get("refusal")):
        if text:
            blocks.append({"type": "text", "text": _text(text)})
    for number, call in enumerate(UPSTREAM.objects(told.get("tool_calls"), "tool_calls")):
        blocks.append(_tool_use(call, f"tool_calls.{number}"))
    return blocks


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts = UPSTREAM.objects(content, "choices.0.message.content")
    return "".join(text["text"] for text in texts if isinstance(text.get("text"), str))


def thinking_blocks(told: Json) -> list[Json]:
    """The model's thinking as Anthropic's blocks: as they came from there, or unsigned."""
    blocks = told.get("thinking_blocks")
    if isinstance(blocks, list) and blocks:
        return [UPSTREAM.object(block, "thinking_blocks") for block in blocks]
    reasoning = reasoning_text(told)
    return [{"type": "thinking", "thinking": reasoning, "signature": ""}] if reasoning else []


def reasoning_text(told: Json) -> str:
    """Servers name it `reasoning_content` (DeepSeek, vLLM, SGLang) or `reasoning` (vLLM, Ollama, Groq)."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(told.get(name), str):
            return str(told[name])
    return ""


def _tool_use(call: Json, where: str) -> Json:
    function = UPSTREAM.object(call.get("function"), f"{where}.function")
    block: Json = {
        "type": "tool_use",
        "id": UPSTREAM.text(call.get("id"), f"{where}.id"),
        "name": UPSTREAM.text(function.get("name"), f"{where}.function.name"),
        "input": _input(UPSTREAM.text(function.get("arguments") or "{}", f"{where}.function.arguments")),
    }
    if call.get("extra_content") is not None:
        block["extra_content"] = call["extra_content"]
    return block


def _input(arguments: str) -> Json:
    """A tool's input; what a model wrote that is no JSON object is kept as it is, under a name of Anthropic's."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": arguments}
