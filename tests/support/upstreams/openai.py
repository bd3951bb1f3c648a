"""OpenAI's API for tests, as strict as the real one: chat, completions, responses, embeddings and rerank.

Refuses fields it does not know and both maxima at once, answers a JSON schema with JSON of that schema, and counts what
it charged.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterator
from typing import Any

from tests.support.upstreams.wire import KEY, Answer, Charge, RefusedError, Seen, WireServer, need

_CHAT = (
    "model messages stream stream_options max_completion_tokens max_tokens temperature top_p n stop tools tool_choice "
    "parallel_tool_calls response_format logprobs top_logprobs seed user metadata store reasoning_effort verbosity "
    "presence_penalty frequency_penalty logit_bias modalities prediction service_tier safety_identifier "
    "prompt_cache_key functions function_call"
)
_COMPLETIONS = (
    "model prompt stream stream_options max_tokens temperature top_p n best_of stop echo suffix logprobs seed user "
    "presence_penalty frequency_penalty logit_bias"
)
_FIELDS = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _COMPLETIONS,
    "/v1/responses": (
        "model input instructions stream max_output_tokens temperature top_p tools tool_choice text reasoning store "
        "previous_response_id include metadata user parallel_tool_calls truncation"
    ),
    "/v1/embeddings": "model input encoding_format dimensions user",
    "/v1/rerank": "model query documents top_n return_documents max_tokens_per_doc",
}
_MESSAGES = {
    "system": "role content name",
    "developer": "role content name",
    "user": "role content name",
    "assistant": "role content name refusal tool_calls audio function_call annotations",
    "tool": "role content tool_call_id",
}
_PARTS = {
    "text": "type text",
    "image_url": "type image_url",
    "input_audio": "type input_audio",
    "file": "type file",
    "refusal": "type refusal",
}


class OpenAIServer(WireServer):
    """`url` is the base URL, with /v1."""

    base = "/v1"
    open = False  # as servers of one's own are, which ask for no key

    def check(self, seen: Seen) -> None:
        known = self.open or seen.headers.get("authorization") == f"Bearer {KEY}"
        need(known, "Incorrect API key provided", 401, "invalid_api_key")
        need(seen.headers.get("content-type") == "application/json", "you must provide a JSON body")
        fields = _FIELDS.get(seen.path)
        if fields is None:
            raise RefusedError(f"Invalid URL (POST {seen.path})", 404)
        body = seen.body
        _only(body, fields, "")
        need(isinstance(body.get("model"), str), "you must provide a model parameter")
        if seen.path.endswith("/completions"):
            need(isinstance(body.get("stream", False), bool), "Invalid type for 'stream'")
            need("stream_options" not in body or body.get("stream"), "'stream_options' is only allowed with 'stream'")
        if seen.path == "/v1/chat/completions":
            _check_chat(body)
        elif seen.path == "/v1/embeddings":
            need(body.get("input"), "'$.input' is invalid")

    def streams(self, seen: Seen) -> bool:
        return seen.body.get("stream") is True

    def whole(self, seen: Seen, answer: Answer) -> dict[str, Any]:
        if seen.path == "/v1/embeddings":
            return _embeddings(seen)
        if seen.path == "/v1/rerank":
            return _reranked(seen)
        if seen.path == "/v1/responses":
            return _response(seen, answer)
        return {**_outline(seen), "choices": _choices(seen, answer), "usage": _usage(seen, answer)}

    def cost(self, seen: Seen, answer: Answer) -> Charge:
        if seen.path in ("/v1/embeddings", "/v1/rerank"):
            return Charge(seen.input_tokens, 0)
        return Charge(seen.input_tokens, answer.output_tokens * (seen.body.get("n") or 1), answer.cached)

    def events(self, seen: Seen, answer: Answer) -> Iterator[tuple[bytes, int]]:
        if seen.path == "/v1/responses":
            yield from _response_events(seen, answer)
            return
        include = (seen.body.get("stream_options") or {}).get("include_usage") is True
        more: dict[str, Any] = {"usage": None} if include else {}
        deltas = _text_deltas(seen, answer) if seen.path == "/v1/completions" else _deltas(seen, answer)
        for choice, tokens in deltas:
            yield _event({**_outline(seen, ".chunk"), "choices": [choice], **more}), tokens
        if include:
            yield _event({**_outline(seen, ".chunk"), "choices": [], "usage": _usage(seen, answer)}), 0
        yield b"data: [DONE]\n\n", 0

    def error(self, status: int, kind: str, message: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": kind, "param": None, "code": kind}}

    def error_event(self, kind: str, message: str) -> bytes:
        return _event(self.error(500, kind, message))


_AZURE = re.compile(r"/openai/(?:v1|deployments/[\w.-]+)/([a-z/]+)(\?api-version=2024-10-21)?")


class AzureServer(OpenAIServer):
    """An Azure resource: the key in a header of its own, the deployment in the path where a version is named."""

    base = ""

    def check(self, seen: Seen) -> None:
        match = _AZURE.fullmatch(seen.path)
        need(match and bool(match[2]) == ("/deployments/" in seen.path), "Resource not found: api-version", 404)
        assert match is not None
        operation = match[1]
        need("authorization" not in seen.headers, "two kinds of keys", 401)
        seen.headers["authorization"] = f"Bearer {seen.headers.get('api-key')}"
        seen.path = f"/v1/{operation}"
        super().check(seen)


_MISTRAL = (
    "model messages stream max_tokens temperature top_p n stop tools tool_choice parallel_tool_calls response_format "
    "random_seed presence_penalty frequency_penalty prediction prompt_mode safe_prompt metadata reasoning_effort"
)


class MistralServer(OpenAIServer):
    """Mistral's chat, which knows no field too many and tells usage with its last chunk."""

    def check(self, seen: Seen) -> None:
        need(seen.headers.get("authorization") == f"Bearer {KEY}", "Unauthorized", 401)
        need(seen.path == "/v1/chat/completions", "no Route matched with those values", 404)
        for name in seen.body:
            need(name in _MISTRAL.split(), f"body.{name}: Extra inputs are not permitted", 422)
        choice = seen.body.get("tool_choice")
        need(choice in (None, "auto", "none", "any") or isinstance(choice, dict), "body.tool_choice", 422)
        for message in seen.body["messages"]:
            _only(message, "role content tool_calls tool_call_id name prefix", "messages")
            need(message["role"] in ("system", "user", "assistant", "tool"), "messages.role")
            ids = [call["id"] for call in message.get("tool_calls") or ()] + [message.get("tool_call_id") or "a" * 9]
            need(all(len(found) == 9 and found.isalnum() for found in ids), "Tool call id must be 9 characters")

    def events(self, seen: Seen, answer: Answer) -> Iterator[tuple[bytes, int]]:
        for choice, tokens in _deltas(seen, answer):
            more = {"usage": _usage(seen, answer)} if choice["finish_reason"] else {}
            yield _event({**_outline(seen, ".chunk"), "choices": [choice], **more}), tokens
        yield b"data: [DONE]\n\n", 0

    def error(self, status: int, kind: str, message: str) -> dict[str, Any]:
        if status == 422:
            return {"object": "error", "message": {"detail": [{"loc": ["body"], "msg": message}]}, "type": kind}
        return {"object": "error", "message": message, "type": kind, "param": None, "code": "3000"}


def text_of(seen: Seen, answer: Answer) -> tuple[str, ...]:
    """What is said: the answer's pieces; where a schema was asked for and they are not JSON, JSON of that schema."""
    shape = seen.body.get("response_format") or {}
    if shape.get("type") != "json_schema" or "".join(answer.pieces).startswith("{"):
        return answer.pieces
    text = json.dumps(_example(shape["json_schema"]["schema"]))
    return tuple(text[start : start + 6] for start in range(0, len(text), 6))


def _check_chat(body: dict[str, Any]) -> None:
    both = "max_tokens" in body and "max_completion_tokens" in body
    need(not both, "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
    messages = body.get("messages")
    need(isinstance(messages, list) and messages, "Invalid 'messages': empty array")
    open_calls: set[str] = set()
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role = message.get("role")
        need(role in _MESSAGES, f"Invalid value for '{where}.role'")
        _only(message, _MESSAGES[role], where)
        _check_content(message.get("content"), role, where)
        if role == "tool":
            need(message.get("tool_call_id") in open_calls, "messages with role 'tool' must follow 'tool_calls'")
        for call in message.get("tool_calls") or ():
            _only(call, "id type function custom", f"{where}.tool_calls")
            need(isinstance(call["function"]["arguments"], str), f"{where}: arguments must be a string")
            open_calls.add(call["id"])
    for number, tool in enumerate(body.get("tools") or ()):
        _only(tool, "type function custom", f"tools[{number}]")
        _only(tool["function"], "name description parameters strict", f"tools[{number}].function")
    _check_format(body.get("response_format") or {"type": "text"})


def _check_content(content: Any, role: str, where: str) -> None:
    if not isinstance(content, list):
        need(isinstance(content, str) or role == "assistant", f"Invalid value for '{where}.content'")
        return
    for part in content:
        need(part.get("type") in _PARTS, f"Invalid value for '{where}.content.type'")
        _only(part, _PARTS[part["type"]], f"{where}.content")
        need(part["type"] == "text" or role in ("user", "assistant"), f"'{where}.content' must be text")
        if part["type"] == "image_url":
            need(role == "user", "Image URLs are only allowed for messages with role 'user'")
            _only(part["image_url"], "url detail", f"{where}.content.image_url")
            need(part["image_url"]["url"].startswith(("https://", "data:image/")), "Invalid image URL")


def _check_format(shape: dict[str, Any]) -> None:
    need(shape.get("type") in ("text", "json_object", "json_schema"), "Invalid value for 'response_format.type'")
    if shape["type"] == "json_schema":
        _only(shape["json_schema"], "name description schema strict", "response_format.json_schema")
        need(shape["json_schema"].get("name"), "Missing required parameter: 'response_format.json_schema.name'")


def _outline(seen: Seen, more: str = "") -> dict[str, Any]:
    kind = "text_completion" if seen.path == "/v1/completions" else f"chat.completion{more}"
    return {"id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG", "object": kind, "created": 1_790_000_000, **_model(seen)}


def _model(seen: Seen) -> dict[str, Any]:
    return {"model": f"{seen.body['model']}-2026-01-01"}


def _choices(seen: Seen, answer: Answer) -> list[dict[str, Any]]:
    text = "".join(text_of(seen, answer))
    stop = _stop(answer)
    if seen.path == "/v1/completions":
        said: dict[str, Any] = {"text": text}
    else:
        message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None, "annotations": []}
        if answer.thinking:
            message["reasoning_content"] = answer.thinking
        if answer.tools:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _json(call.arguments)}}
                for call in answer.tools
            ]
        said = {"message": message}
    count = seen.body.get("n") or 1
    return [{"index": index, **said, "logprobs": None, "finish_reason": stop} for index in range(count)]


def _text_deltas(seen: Seen, answer: Answer) -> Iterator[tuple[dict[str, Any], int]]:
    for piece in answer.pieces:
        yield {"index": 0, "text": piece, "logprobs": None, "finish_reason": None}, 1
    yield {"index": 0, "text": "", "logprobs": None, "finish_reason": _stop(answer)}, 0


def _deltas(seen: Seen, answer: Answer) -> Iterator[tuple[dict[str, Any], int]]:
    def choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}

    yield choice({"role": "assistant", "content": "", "refusal": None}), 0
    for word in answer.thinking.split():
        yield choice({"reasoning_content": f"{word} "}), 1
    for piece in text_of(seen, answer):
        yield choice({"content": piece}), 1
    for index, call in enumerate(answer.tools):
        function = {"name": call.name, "arguments": ""}
        head = {"index": index, "id": call.id, "type": "function", "function": function}
        yield choice({"tool_calls": [head]}), 5
        told = _json(call.arguments)
        for start in range(0, len(told), 7):
            arguments = {"arguments": told[start : start + 7]}
            yield choice({"tool_calls": [{"index": index, "function": arguments}]}), 0
    yield choice({}, _stop(answer)), 0


def _stop(answer: Answer) -> str:
    return answer.stop or ("tool_calls" if answer.tools else "stop")


def _usage(seen: Seen, answer: Answer) -> dict[str, Any]:
    output = answer.output_tokens * (seen.body.get("n") or 1)
    return {
        "prompt_tokens": seen.input_tokens,
        "completion_tokens": output,
        "total_tokens": seen.input_tokens + output,
        "prompt_tokens_details": {"cached_tokens": answer.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": len(answer.thinking.split()), "audio_tokens": 0},
    }


def _response(seen: Seen, answer: Answer) -> dict[str, Any]:
    part = {"type": "output_text", "text": "".join(answer.pieces), "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    usage = _usage(seen, answer)
    return {
        **_opened(seen),
        "status": "completed",
        "output": [message],
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": answer.cached},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        },
    }


def _opened(seen: Seen) -> dict[str, Any]:
    previous = seen.body.get("previous_response_id")
    base = {"id": "resp_real", "object": "response", "created_at": 1_790_000_000, "previous_response_id": previous}
    return {**base, "status": "in_progress", "output": [], "tools": [], "tool_choice": "auto", **_model(seen)}


def _response_events(seen: Seen, answer: Answer) -> Iterator[tuple[bytes, int]]:
    whole = _response(seen, answer)
    message = whole["output"][0]
    part = message["content"][0]
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    told: list[tuple[str, dict[str, Any], int]] = [
        ("response.created", {"response": _opened(seen)}, 0),
        ("response.output_item.added", {"output_index": 0, "item": {**message, "content": []}}, 0),
        ("response.content_part.added", {**place, "part": {**part, "text": ""}}, 0),
        *[("response.output_text.delta", {**place, "delta": piece, "logprobs": []}, 1) for piece in answer.pieces],
        ("response.output_text.done", {**place, "text": part["text"], "logprobs": []}, 0),
        ("response.content_part.done", {**place, "part": part}, 0),
        ("response.output_item.done", {"output_index": 0, "item": message}, 0),
        ("response.completed", {"response": whole}, 0),
    ]
    for number, (kind, fields, tokens) in enumerate(told):
        event = {"type": kind, "sequence_number": number, **fields}
        yield f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode(), tokens


def _embeddings(seen: Seen) -> dict[str, Any]:
    given = seen.body["input"]
    texts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    vectors = [[float(len(str(text))), 0.5, -1.0] for text in texts]
    if seen.body.get("encoding_format") == "base64":
        values: list[Any] = [base64.b64encode(struct.pack("<3f", *vector)).decode() for vector in vectors]
    else:
        values = list(vectors)
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values)]
    usage = {"prompt_tokens": seen.input_tokens, "total_tokens": seen.input_tokens}
    return {"object": "list", "data": data, **_model(seen), "usage": usage}


def _reranked(seen: Seen) -> dict[str, Any]:
    documents = seen.body["documents"]
    order = sorted(range(len(documents)), key=lambda index: -len(str(documents[index])))
    results = [{"index": index, "relevance_score": 1 / (place + 1)} for place, index in enumerate(order)]
    return {"id": "rerank-1", "results": results[: seen.body.get("top_n") or len(results)], **_tokens(seen)}


def _tokens(seen: Seen) -> dict[str, Any]:
    return {"usage": {"total_tokens": seen.input_tokens}}


def _example(schema: dict[str, Any]) -> Any:
    """Some value of a schema, as far as tests need."""
    if "$ref" in schema or "anyOf" in schema:
        return None
    kind = schema.get("type")
    if kind == "object":
        return {name: _example(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema["items"])]
    return {"string": "Hello", "integer": 7, "number": 0.5, "boolean": True}.get(str(kind))


def _json(value: Any) -> str:
    return json.dumps(value)


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def _only(found: dict[str, Any], allowed: str, where: str) -> None:
    """Refuse fields that the API does not know."""
    for name in found:
        need(name in allowed.split(), f"Unrecognized request argument supplied: {where}.{name}".replace(": .", ": "))
