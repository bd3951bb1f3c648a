"""Speaks Mistral's API: OpenAI's paths and shapes, other words for some fields, and nothing it does not know.

Mistral refuses unknown fields, so those that ask for nothing are left out and those that would change the answer are
refused by name. Its usage comes with the last chunk, unasked.

Source: https://docs.mistral.ai/api/#tag/chat/operation/chat_completion_v1_chat_completions_post
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any, Final

import orjson

from llmops.gateway import chat
from llmops.gateway.calls import Json, Operation, Reader, Relay, Reply
from llmops.gateway.config import TargetConfig
from llmops.gateway.providers.openai import OpenAI
from llmops.gateway.providers.openai_reply import loaded, read_reply
from llmops.gateway.providers.openai_request import wants_usage, without_extensions
from llmops.gateway.providers.openai_stream import ChatReader, ChatRelay
from llmops.gateway.reading import CALLER

_KNOWN: Final = chat.GENERATION | frozenset(
    {
        *("n", "frequency_penalty", "presence_penalty", "random_seed", "seed", "safe_prompt", "prompt_mode"),
        *("guardrails", "metadata", "prediction", "verbosity"),
    }
)
_UNKNOWN_HINTS: Final = (chat.HINTS | {"verbosity", "service_tier"}) - {
    "model",
    "messages",
    "stream",
    "metadata",
    "prediction",
}
_MESSAGE_FIELDS: Final = frozenset({"role", "content", "tool_calls", "tool_call_id", "name", "prefix"})
_CALL_ID: Final = re.compile(r"[A-Za-z0-9]{9}")


class Mistral(OpenAI):
    """Mistral's platform."""

    def _default_operations(self) -> tuple[Operation, ...]:
        return ("chat", "embeddings")

    def _limit_name(self, operation: Operation) -> str:
        return "max_tokens"

    def _adapted(self, operation: Operation, body: Json, target: TargetConfig, limit: int | None) -> Json:
        out = without_extensions(super()._adapted(operation, body, target, limit))
        if operation != "chat":
            return out
        chat.refuse_unknown(out, _KNOWN, "Mistral")
        for name in [name for name, value in out.items() if name in _UNKNOWN_HINTS or value is None]:
            del out[name]
        for name in [name for name in out if name not in _KNOWN and name in chat.NEUTRAL]:
            del out[name]
        if "seed" in out:
            out["random_seed"] = out.pop("seed")
        if out.get("tool_choice") == "required":
            out["tool_choice"] = "any"
        out["messages"] = [_message(message, role) for _, message, role in chat.messages(body)]
        return out

    def reply(self, operation: Operation, body: bytes) -> Reply:
        reply = read_reply(operation, body, self._secret)
        if operation != "chat":
            return reply
        value = loaded(body)
        changed = [_mend(choice, "message") for choice in value["choices"]]
        if any(changed):
            reply.body = orjson.dumps(value)
            reply.finish = value["choices"][0].get("finish_reason")
        return reply

    def relay(self, operation: Operation, body: Json) -> Relay:
        if operation != "chat":
            return super().relay(operation, body)
        return ChatRelay(
            wants_usage=wants_usage(body),
            choices=chat_choices(body),
            secret=self._secret,
            rewrite=_mend_chunk,
            differs=b'"content":[',
        )

    def reader(self, body: Json) -> Reader:
        return ChatReader(choices=chat_choices(body), secret=self._secret, rewrite=_mend_chunk)


def chat_choices(body: Json) -> int:
    return max(CALLER.count(body.get("n"), "n"), 1)


def _message(message: Json, role: str) -> Json:
    """A message in the fields that Mistral knows."""
    out = {name: value for name, value in message.items() if name in _MESSAGE_FIELDS and value is not None}
    if role == "developer":
        out["role"] = "system"
    if role in ("user", "system", "developer"):
        out.pop("name", None)
    if isinstance(out.get("content"), list):
        out["content"] = [_plain_refusal(part) for part in out["content"]]
    if isinstance(out.get("tool_call_id"), str):
        out["tool_call_id"] = _call_id(out["tool_call_id"])
    if out.get("tool_calls"):
        out["tool_calls"] = [_call(call) for call in CALLER.objects(out["tool_calls"], "messages.tool_calls")]
    return out


def _plain_refusal(part: Any) -> Any:
    if isinstance(part, dict) and part.get("type") == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    return part


def _call(call: Json) -> Json:
    return {**call, "id": _call_id(call["id"])} if isinstance(call.get("id"), str) else call


def _call_id(given: str) -> str:
    """Mistral takes nine letters or digits; the ids of other providers are mapped, always to the same."""
    if _CALL_ID.fullmatch(given):
        return given
    return sha256(given.encode("utf-8", "replace")).hexdigest()[:9]


def _mend_chunk(value: Json) -> bool:
    choices = value.get("choices")
    if not isinstance(choices, list):
        return False
    changed = [_mend(choice, "delta") for choice in choices if isinstance(choice, dict)]
    return any(changed)


def _mend(choice: Json, part: str) -> bool:
    """Put Mistral's own finish reason and its reasoning parts into OpenAI's words; whether there were any."""
    changed = False
    if choice.get("finish_reason") in ("model_length", "error"):
        choice["finish_reason"] = "length" if choice["finish_reason"] == "model_length" else "content_filter"
        changed = True
    message = choice.get(part)
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(message, dict) and isinstance(content, list):
        message["reasoning_content"] = _text_of(content, "thinking") or None
        message["content"] = _text_of(content, "text")
        changed = True
    return changed


def _text_of(parts: list[Any], kind: str) -> str:
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != kind:
            continue
        value = part.get(kind)
        texts.append(_text_of(value, "text") if isinstance(value, list) else value if isinstance(value, str) else "")
    return "".join(texts)
