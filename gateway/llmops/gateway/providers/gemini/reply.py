"""Reads Gemini's replies, whole and streamed, and says them as chat completions, chunks and embeddings.

Knows `GenerateContentResponse`, whose streamed form repeats the whole object with new parts and usage so far, and
Google's error status with its details. A stream has no end mark but the candidate's `finishReason`.

Source: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse,
https://ai.google.dev/gemini-api/docs/troubleshooting, https://google.aip.dev/193 (error details)
"""

from __future__ import annotations

import re
import secrets
from typing import Any

import orjson

from llmops.gateway import answers
from llmops.gateway.calls import Fault, Headers, Json, Reply, Usage
from llmops.gateway.providers.faults import read_fault, stream_fault
from llmops.gateway.reading import UPSTREAM, dumped

_FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"),
            *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
        ),
        "content_filter",
    ),
}
_BAD_KEY = re.compile(r"API key (?:not valid|expired|not found)|API_KEY_INVALID", re.IGNORECASE)
_NOT_HERE = re.compile(r"location is not supported|enable billing|has not been used in project", re.IGNORECASE)
_TOO_LONG = re.compile(r"input token count .{0,40}exceeds the maximum", re.IGNORECASE)
_DELAY = re.compile(r"(\d{1,7}(?:\.\d{1,9})?)s")


def read_usage(told: object) -> Usage:
    """Thoughts are output, and counted beside the candidates; what tools brought in is input."""
    usage = UPSTREAM.object(told, "usageMetadata")

    def count(name: str) -> int:
        return UPSTREAM.count(usage.get(name), f"usageMetadata.{name}")

    thoughts = count("thoughtsTokenCount")
    prompt = count("promptTokenCount") + count("toolUsePromptTokenCount")
    return Usage(
        input_tokens=prompt,
        output_tokens=count("candidatesTokenCount") + thoughts,
        cached_tokens=min(count("cachedContentTokenCount"), prompt),
        reasoning_tokens=thoughts,
    )


def generated(body: bytes) -> Reply:
    """A whole reply as a chat completion."""
    told = UPSTREAM.object(UPSTREAM.parsed(body, "body"), "body")
    if told.get("error"):
        raise stream_fault(told)
    usage = None if told.get("usageMetadata") is None else read_usage(told["usageMetadata"])
    model = UPSTREAM.optional_text(told.get("modelVersion"), "modelVersion")
    turn = Turn(response_id(told))
    message: Json = {"role": "assistant", "content": None, "refusal": None}
    for delta in turn.deltas(told):
        _gather(message, delta)
    if turn.finish is None:
        raise UPSTREAM.fault("candidates", "is empty")
    completion = answers.completion(turn.id, model or "", message, turn.finish, usage)
    return Reply(dumped(completion), usage, model, turn.finish)


def _gather(message: Json, delta: Json) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            for call in value:
                message.setdefault(name, []).append({key: call[key] for key in call if key != "index"})
        elif isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        else:
            message[name] = value


def response_id(told: Json) -> str:
    id_ = UPSTREAM.optional_text(told.get("responseId"), "responseId")
    return id_ or secrets.token_hex(12)


class Turn:
    """The model's turn as it comes: which calls it held so far, and how it ended."""

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.finish: str | None = None
        self._calls = 0

    def deltas(self, told: Json) -> list[Json]:
        """What one response object adds, as deltas of a chat message."""
        candidates = UPSTREAM.objects(told.get("candidates"), "candidates")
        if not candidates:
            return self._blocked(told.get("promptFeedback"))
        content = UPSTREAM.object(candidates[0].get("content") or {}, "content")
        found = UPSTREAM.objects(content.get("parts"), "content.parts")
        deltas = [delta for number, part in enumerate(found) if (delta := self._part(part, f"parts.{number}"))]
        if candidates[0].get("finishReason") is not None:
            deltas += self._ended(candidates[0], bool(deltas))
        return deltas

    def _blocked(self, feedback: object) -> list[Json]:
        reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
        if not isinstance(reason, str):
            return []
        self.finish = "content_filter"
        return [{"refusal": f"the prompt was blocked: {reason}"}]

    def _ended(self, candidate: Json, has_parts: bool) -> list[Json]:
        reason = UPSTREAM.text(candidate["finishReason"], "finishReason")
        self.finish = _FINISH.get(reason, "stop")
        if self.finish == "stop" and self._calls:
            self.finish = "tool_calls"
        if reason in ("STOP", "MAX_TOKENS") or has_parts:
            return []
        why = candidate.get("finishMessage")
        return [{"refusal": why if isinstance(why, str) and why else f"the answer ended: {reason}"}]

    def _part(self, part: Json, where: str) -> Json | None:
        if part.get("functionCall") is not None:
            return {"tool_calls": [self._call(part, where)]}
        if part.get("inlineData") is not None:
            blob = UPSTREAM.object(part["inlineData"], f"{where}.inlineData")
            kind, data = (UPSTREAM.text(blob.get(name), f"{where}.inlineData") for name in ("mimeType", "data"))
            return {"images": [{"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}]}
        delta: Json = {}
        if text := UPSTREAM.optional_text(part.get("text"), f"{where}.text"):
            delta["reasoning_content" if part.get("thought") is True else "content"] = text
        return {**delta, **_signed(part)} or None

    def _call(self, part: Json, where: str) -> Json:
        call = UPSTREAM.object(part["functionCall"], f"{where}.functionCall")
        number, self._calls = self._calls, self._calls + 1
        id_ = UPSTREAM.optional_text(call.get("id"), f"{where}.functionCall.id")
        arguments = dumped(UPSTREAM.object(call.get("args") or {}, f"{where}.functionCall.args")).decode()
        name = UPSTREAM.text(call.get("name"), f"{where}.functionCall.name")
        function = {"name": name, "arguments": arguments}
        told = {"index": number, "id": id_ or f"call_{self.id}_{number}", "type": "function", "function": function}
        return {**told, **_signed(part)}


def _signed(part: Json) -> Json:
    signature = part.get("thoughtSignature")
    if not isinstance(signature, str) or not signature:
        return {}
    return {"extra_content": {"google": {"thought_signature": signature}}}


def embedded(body: bytes) -> Reply:
    """The reply of `batchEmbedContents` in OpenAI's format."""
    told = UPSTREAM.object(UPSTREAM.parsed(body, "body"), "body")
    usage = None if told.get("usageMetadata") is None else read_usage(told["usageMetadata"])
    vectors = []
    for number, embedding in enumerate(UPSTREAM.objects(told.get("embeddings"), "embeddings")):
        values = embedding.get("values")
        if not isinstance(values, list):
            raise UPSTREAM.fault(f"embeddings.{number}.values", "must be a list")
        vectors.append(values)
    if not vectors:
        raise UPSTREAM.fault("embeddings", "is empty")
    return Reply(dumped(answers.embeddings(vectors, "", usage)), usage)


def reply_fault(status: int, headers: Headers, body: bytes, secret: str | None) -> Fault:
    """An error reply. A wrong key or account is told as 400; how long to wait stands in the details."""
    fault = read_fault(status, headers, body, secret)
    if fault.kind == "bad_request" and _BAD_KEY.search(body[:4096].decode("utf-8", "replace")):
        fault.kind, fault.status = "unauthenticated", 502
        fault.message, fault.code = "the provider refused the gateway's key", None
    elif fault.kind == "bad_request" and _NOT_HERE.search(fault.message):
        fault.kind, fault.status = "unauthenticated", 502
    elif fault.kind == "bad_request" and _TOO_LONG.search(fault.message):
        fault.kind, fault.code = "context_too_long", "context_length_exceeded"
    if fault.retry_after_s is None and fault.kind in ("rate_limited", "overloaded"):
        fault.retry_after_s = _retry_delay(body)
    return fault


def _retry_delay(body: bytes) -> float | None:
    """`retryDelay` of a `google.rpc.RetryInfo`."""
    try:
        told: Any = orjson.loads(body[: 64 * 1024])
    except orjson.JSONDecodeError:
        return None
    told = told[0] if isinstance(told, list) and told else told
    error = told.get("error") if isinstance(told, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (match := _DELAY.fullmatch(delay)):
            return float(match[1])
    return None
