"""Reads Converse's replies and says them as chat completions; reads its usage and its errors.

Knows the whole reply and the error envelope. Converse's `inputTokens` leaves out what came from or went to the cache;
here, as in OpenAI's format, all input is counted. Converse names neither the reply nor the model.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html,
https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html
"""

from __future__ import annotations

import re
import secrets
from typing import Any

import orjson

from llmops.gateway import answers
from llmops.gateway.calls import Fault, Headers, Json, Reply, Usage
from llmops.gateway.providers.faults import read_fault
from llmops.gateway.reading import UPSTREAM, dumped

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_TOLD = frozenset({"guardrail_intervened", "content_filtered", "malformed_model_output", "malformed_tool_use"})
"""Ends that a caller should hear of, since the answer lacks something."""

_STATUS = {
    "ThrottlingException": 429,
    "ServiceQuotaExceededException": 429,
    "ModelNotReadyException": 503,
    "ServiceUnavailableException": 503,
    "ModelTimeoutException": 504,
    "ModelErrorException": 500,
    "ModelStreamErrorException": 500,
    "InternalServerException": 500,
    "ValidationException": 400,
    "ResourceNotFoundException": 404,
    "AccessDeniedException": 403,
}
"""The status that says whose matter an error is; Bedrock's own is 424 or 408 for a model that failed."""

_BAD_SIGNATURE = frozenset(
    {
        *("UnrecognizedClientException", "InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature"),
        *("IncompleteSignatureException", "MissingAuthenticationToken", "MissingAuthenticationTokenException"),
        *("ExpiredTokenException", "ExpiredToken", "InvalidClientTokenId", "NotAuthorized", "RequestExpired"),
    }
)
_ARN = re.compile(r"arn:aws[\w-]*:[\w-]*:[\w-]*:\d{12}:")
_MOST_BODY = 64 * 1024


def read_usage(told: object) -> Usage:
    usage = UPSTREAM.object(told, "usage")

    def count(name: str) -> int:
        return UPSTREAM.count(usage.get(name), f"usage.{name}")

    cached, written = count("cacheReadInputTokens"), count("cacheWriteInputTokens")
    details = UPSTREAM.objects(usage.get("cacheDetails"), "usage.cacheDetails")
    long = [item.get("inputTokens") for item in details if item.get("ttl") == "1h"]
    return Usage(
        input_tokens=count("inputTokens") + cached + written,
        output_tokens=count("outputTokens"),
        cached_tokens=cached,
        cache_write_tokens=written,
        cache_write_long_tokens=min(sum(UPSTREAM.count(tokens, "usage.cacheDetails") for tokens in long), written),
    )


def finish_reason(told: object) -> str:
    return _FINISH.get(told, "stop") if isinstance(told, str) else "stop"


def end_told(told: object) -> str | None:
    """Why an answer is not what was asked for, where that is so."""
    return f"the answer ended: {told}" if isinstance(told, str) and told in _TOLD else None


def new_id() -> str:
    return secrets.token_hex(12)


def chat_reply(body: bytes) -> Reply:
    """A whole reply as a chat completion."""
    told = UPSTREAM.object(UPSTREAM.parsed(body, "body"), "body")
    said = UPSTREAM.object(UPSTREAM.object(told.get("output"), "output").get("message"), "output.message")
    usage = None if told.get("usage") is None else read_usage(told["usage"])
    finish = finish_reason(UPSTREAM.text(told.get("stopReason"), "stopReason"))
    message = _assistant(UPSTREAM.objects(said.get("content"), "output.message.content"))
    message["refusal"] = end_told(told["stopReason"])
    model = invoked_model(told.get("trace"))
    completion = answers.completion(new_id(), model or "", message, finish, usage)
    return Reply(dumped(completion), usage, model, finish)


def invoked_model(trace: object) -> str | None:
    """The model that a prompt router chose; nothing else names one."""
    router = trace.get("promptRouter") if isinstance(trace, dict) else None
    model = router.get("invokedModelId") if isinstance(router, dict) else None
    return model if isinstance(model, str) else None


def _assistant(blocks: list[Json]) -> Json:
    texts, thoughts, thinking, calls = [], [], [], []
    for number, block in enumerate(blocks):
        where = f"output.message.content.{number}"
        if block.get("text") is not None:
            texts.append(UPSTREAM.text(block["text"], f"{where}.text"))
        elif block.get("citationsContent") is not None:
            texts.append(_cited(UPSTREAM.object(block["citationsContent"], where), where))
        elif block.get("reasoningContent") is not None:
            thought = thinking_block(UPSTREAM.object(block["reasoningContent"], where), where)
            thoughts.append(thought.get("thinking", ""))
            thinking += [thought] if is_signed(thought) else []
        elif block.get("toolUse") is not None:
            calls.append(_tool_call(UPSTREAM.object(block["toolUse"], where), where))
    return answers.assistant(texts, thoughts, calls, thinking)


def _cited(content: Json, where: str) -> str:
    found = UPSTREAM.objects(content.get("content"), f"{where}.citationsContent.content")
    return "".join(UPSTREAM.optional_text(part.get("text"), where) or "" for part in found)


def thinking_block(reasoning: Json, where: str) -> Json:
    """A reasoning block as Anthropic's API has it, in which form it can be sent back."""
    if reasoning.get("redactedContent") is not None:
        return {"type": "redacted_thinking", "data": UPSTREAM.text(reasoning["redactedContent"], where)}
    text = UPSTREAM.object(reasoning.get("reasoningText"), f"{where}.reasoningContent.reasoningText")
    thought = UPSTREAM.text(text.get("text"), f"{where}.reasoningContent.reasoningText.text")
    return {"type": "thinking", "thinking": thought, "signature": UPSTREAM.optional_text(text.get("signature"), where)}


def is_signed(thought: Json) -> bool:
    return bool(thought.get("signature") or thought.get("data"))


def _tool_call(use: Json, where: str) -> Json:
    arguments = dumped(UPSTREAM.object(use.get("input") or {}, f"{where}.toolUse.input")).decode()
    function = {"name": UPSTREAM.text(use.get("name"), f"{where}.toolUse.name"), "arguments": arguments}
    return {"id": UPSTREAM.text(use.get("toolUseId"), f"{where}.toolUseId"), "type": "function", "function": function}


def reply_fault(status: int, headers: Headers, body: bytes, secret: str | None) -> Fault:
    """An error reply. Its name stands in a header, or in the body as `__type`."""
    told = _parsed(body)
    found = [bytes(value).decode("latin-1") for name, value in headers if bytes(name).lower() == b"x-amzn-errortype"]
    named = found[0] if found else told.get("__type")
    name = named.partition(":")[0].rpartition("#")[2] if isinstance(named, str) else ""
    message = told.get("message", told.get("Message"))
    if not name and not isinstance(message, str):
        return read_fault(status, headers, body, secret)
    return named_fault(name, message, headers=headers, secret=secret, status=status)


def named_fault(
    name: str, message: object, *, headers: Headers = (), secret: str | None = None, status: int = 500
) -> Fault:
    """The fault that an exception of Bedrock is; `status` counts where the name is not known here."""
    if name in _BAD_SIGNATURE:
        told = "the provider refused the gateway's credentials: check them, their region, and this machine's clock"
        return Fault("unauthenticated", told, 502, code=name)
    text = message if isinstance(message, str) else ""
    error = dumped({"error": {"message": text or name, "code": name}})
    fault = read_fault(_STATUS.get(name, status), headers, error, secret)
    if fault.kind == "unauthenticated" and _ARN.search(text):
        fault.message = "the provider does not let the gateway's credentials use this model"
    if name == "ServiceQuotaExceededException":
        fault.code = "insufficient_quota"
    return fault


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        told = orjson.loads(body[:_MOST_BODY])
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}
