"""The Gemini API for tests: generateContent, streamGenerateContent?alt=sse, batchEmbedContents, embedContent.

As strict as Gemini 3: unknown fields are refused as protobuf's JSON does it, function calls must carry a signature of
this server's thoughts (or the one that skips the check), responses must answer the calls before them.

Source: https://ai.google.dev/api/generate-content, https://ai.google.dev/gemini-api/docs/thought-signatures
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.support.upstreams.wire import KEY, Answer, Call, Charge, RefusedError, Seen, WireServer, need, only

_PATH = re.compile(r"/v1beta/models/([\w.-]+):(\w+)(\?alt=sse)?")
_STATUS = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
_CONFIG = (
    "maxOutputTokens temperature topP topK presencePenalty frequencyPenalty seed stopSequences responseMimeType "
    "responseJsonSchema responseSchema thinkingConfig candidateCount"
)
_PARTS = ("text", "inlineData", "functionCall", "functionResponse")
SKIP = "skip_thought_signature_validator"


def signature_of(call: Call) -> str:
    return call.signature or base64.b64encode(f"thought before {call.name}".encode()).decode()


class GeminiServer(WireServer):
    """`url` is the base URL, with /v1beta."""

    base = "/v1beta"

    def check(self, seen: Seen) -> None:
        if seen.headers.get("x-goog-api-key") != KEY:
            raise RefusedError("API key not valid. Please pass a valid API key.")
        match = _PATH.fullmatch(seen.path)
        need(match, "Not found", 404)
        assert match is not None
        if match[2] in ("embedContent", "batchEmbedContents"):
            _check_embeddings(seen.body, match[1], match[2])
            return
        need(match[2] in ("generateContent", "streamGenerateContent"), "Not found", 404)
        need((match[2] == "streamGenerateContent") == bool(match[3]), "the test speaks server-sent events only")
        only(seen.body, "contents systemInstruction generationConfig tools toolConfig", "Unknown name ")
        _check_contents(seen.body.get("contents"))
        _check_config(seen.body)
        _check_tools(seen.body)

    def streams(self, seen: Seen) -> bool:
        return ":streamGenerateContent" in seen.path

    def whole(self, seen: Seen, answer: Answer) -> dict[str, Any]:
        if "mbedContent" in seen.path:
            vectors = [{"values": [0.1, 0.2, float(number)]} for number, _ in enumerate(seen.body["requests"])]
            return {"embeddings": vectors, "usageMetadata": {"promptTokenCount": seen.input_tokens}}
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": _parts(answer)}, "index": 0}
        candidate["finishReason"] = answer.stop or "STOP"
        return {**_head(seen), "candidates": [candidate], "usageMetadata": _usage(seen, answer, answer.output_tokens)}

    def cost(self, seen: Seen, answer: Answer) -> Charge:
        if "mbedContent" in seen.path:
            return Charge(seen.input_tokens, 0)
        return super().cost(seen, answer)

    def events(self, seen: Seen, answer: Answer) -> Iterator[tuple[bytes, int]]:
        parts: list[tuple[dict[str, Any], int]] = []
        if answer.thinking:
            parts.append(({"text": answer.thinking, "thought": True}, len(answer.thinking.split())))
        parts += [({"text": piece}, 1) for piece in answer.pieces]
        parts += [(_call(number, call), 5) for number, call in enumerate(answer.tools)]
        so_far = 0
        for number, (part, tokens) in enumerate(parts):
            so_far += tokens
            candidate: dict[str, Any] = {"content": {"role": "model", "parts": [part]}, "index": 0}
            if number == len(parts) - 1:
                candidate["finishReason"] = answer.stop or "STOP"
            told = {**_head(seen), "candidates": [candidate], "usageMetadata": _usage(seen, answer, so_far)}
            yield b"data: " + json.dumps(told).encode() + b"\r\n\r\n", tokens

    def error(self, status: int, kind: str, message: str) -> dict[str, Any]:
        details = []
        if status == 429:
            details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "22s"})
        name = _STATUS.get(status, "UNAVAILABLE" if status == 503 else "INTERNAL")
        return {"error": {"code": status, "message": message, "status": name, "details": details}}

    def error_event(self, kind: str, message: str) -> bytes:
        return b"data: " + json.dumps(self.error(503, kind, message)).encode() + b"\r\n\r\n"


def _head(seen: Seen) -> dict[str, Any]:
    match = _PATH.fullmatch(seen.path)
    assert match is not None
    return {"modelVersion": match[1], "responseId": "Il0taoSYJ5Cez7IPkYW5gAc"}


def _parts(answer: Answer) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    if answer.thinking:
        parts.append({"text": answer.thinking, "thought": True})
    if answer.pieces:
        parts.append({"text": "".join(answer.pieces)})
    return parts + [_call(number, call) for number, call in enumerate(answer.tools)]


def _call(number: int, call: Call) -> dict[str, Any]:
    """Only the first of parallel calls is signed."""
    part: dict[str, Any] = {"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}}
    return part if number else {**part, "thoughtSignature": signature_of(call)}


def _usage(seen: Seen, answer: Answer, output: int) -> dict[str, Any]:
    thoughts = min(len(answer.thinking.split()), output)
    usage = {
        "promptTokenCount": seen.input_tokens,
        "candidatesTokenCount": output - thoughts,
        "totalTokenCount": seen.input_tokens + output,
    }
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    if answer.cached:
        usage["cachedContentTokenCount"] = answer.cached
    return usage


def _check_contents(contents: Any) -> None:
    need(isinstance(contents, list) and contents, "contents is not specified")
    before: list[dict[str, Any]] = []
    for number, content in enumerate(contents):
        where = f"contents[{number}]"
        only(content, "role parts", f"{where}: Unknown name ")
        need(content.get("role") in ("user", "model"), "Please use a valid role: user, model.")
        need(content.get("parts"), f"{where}.parts must not be empty")
        for part in content["parts"]:
            _check_part(part, content["role"], where)
        calls = [part["functionCall"] for part in before if "functionCall" in part]
        answers = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
        need(
            [call["name"] for call in calls] == [answer["name"] for answer in answers],
            "the number of function response parts must equal the number of function call parts of the turn before",
        )
        need({a.get("id") for a in answers} == {c.get("id") for c in calls}, "function response ids do not match")
        before = content["parts"] if content["role"] == "model" else []
        signed = [part.get("thoughtSignature") for part in before if "functionCall" in part]
        need(not signed or signed[0], f"Function call is missing a thought_signature in {where}")
        need(all(_is_ours(signature) for signature in signed if signature), "Invalid thought signature.")


def _is_ours(signature: str) -> bool:
    if signature == SKIP:
        return True
    try:
        return base64.b64decode(signature, validate=True).startswith(b"thought before ")
    except ValueError:
        return False


def _check_part(part: dict[str, Any], role: str, where: str) -> None:
    only(part, "text thought thoughtSignature inlineData functionCall functionResponse", f"{where}: Unknown name ")
    need(sum(name in part for name in _PARTS) == 1, f"{where}.parts: data must have one initialized field")
    if "inlineData" in part:
        only(part["inlineData"], "mimeType data", f"{where}.inlineData: Unknown name ")
        try:
            base64.b64decode(part["inlineData"]["data"], validate=True)
        except ValueError:
            raise RefusedError(f"{where}: Base64 decoding failed") from None
    if "functionCall" in part:
        only(part["functionCall"], "id name args", f"{where}.functionCall: Unknown name ")
        need(role == "model" and isinstance(part["functionCall"].get("args"), dict), f"{where}: bad function call")
    if "functionResponse" in part:
        only(part["functionResponse"], "id name response", f"{where}.functionResponse: Unknown name ")
        need(role == "user" and part["functionResponse"].get("name"), f"{where}: Name cannot be empty")
        need(isinstance(part["functionResponse"].get("response"), dict), f"{where}: response must be a Struct")


def _check_config(body: dict[str, Any]) -> None:
    config = body.get("generationConfig", {})
    only(config, _CONFIG, "generation_config: Unknown name ")
    need(config.get("maxOutputTokens", 1) >= 1, "maxOutputTokens must be positive")
    need(0 <= config.get("temperature", 1) <= 2, "temperature must be in the range [0.0, 2.0]")
    need(len(config.get("stopSequences", [])) <= 5, "stopSequences: at most 5")
    if "responseJsonSchema" in config:
        mime = config.get("responseMimeType")
        need(mime == "application/json", "response_json_schema needs response_mime_type application/json")
    thinking = config.get("thinkingConfig", {})
    only(thinking, "includeThoughts thinkingBudget thinkingLevel", "thinking_config: Unknown name ")
    need(len(thinking.keys() & {"thinkingBudget", "thinkingLevel"}) <= 1, "You can only set one of them")
    levels = ("MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH")
    need(thinking.get("thinkingLevel", "LOW") in levels, "Invalid value at thinking_level")
    system = body.get("systemInstruction")
    need(system is None or system.get("parts"), "systemInstruction.parts must not be empty")


def _check_tools(body: dict[str, Any]) -> None:
    for tool in body.get("tools", []):
        only(tool, "functionDeclarations", "tools: Unknown name ")
        for declared in tool["functionDeclarations"]:
            only(declared, "name description parametersJsonSchema parameters", "function_declarations: Unknown name ")
            need(re.fullmatch(r"[a-zA-Z_][\w.:-]{0,63}", declared["name"]), "Invalid function name.")
    calling = body.get("toolConfig", {}).get("functionCallingConfig", {"mode": "AUTO"})
    only(calling, "mode allowedFunctionNames", "function_calling_config: Unknown name ")
    need(calling.get("mode") in ("AUTO", "ANY", "NONE"), "Invalid value at mode")
    need(calling["mode"] == "ANY" or "allowedFunctionNames" not in calling, "allowed_function_names needs mode ANY")


def _check_embeddings(body: dict[str, Any], model: str, method: str) -> None:
    need(method == "batchEmbedContents", "the test embeds in batches only", 404)
    only(body, "requests", "Unknown name ")
    need(1 <= len(body.get("requests", [])) <= 100, "at most 100 requests can be in one batch")
    for request in body["requests"]:
        only(request, "model content outputDimensionality taskType title", "requests: Unknown name ")
        need(request.get("model") == f"models/{model}", "the model of each request must be the batch's")
        need(request.get("content", {}).get("parts"), "content is not specified")
