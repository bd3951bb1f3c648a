"""Anthropic's Messages API for tests, as strict as the real one, and stricter in one thing: roles must alternate.

(The API joins turns of one role by itself; Bedrock's and older versions of it refuse them, so ours never sends them.)

Source: https://platform.claude.com/docs/en/api/messages/create, https://platform.claude.com/docs/en/api/errors,
https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.support.upstreams.wire import KEY, Answer, RefusedError, Seen, WireServer, need, only

_ID = re.compile(r"[a-zA-Z0-9_-]+")
_FIELDS = (
    "model messages max_tokens system stream stop_sequences temperature top_p top_k tools tool_choice thinking "
    "output_config metadata service_tier cache_control"
)
_BLOCKS = {
    "text": "type text cache_control citations",
    "image": "type source cache_control",
    "document": "type source title context citations cache_control",
    "thinking": "type thinking signature",
    "redacted_thinking": "type data",
    "tool_use": "type id name input cache_control",
    "tool_result": "type tool_use_id content is_error cache_control",
}


def signature_of(thinking: str) -> str:
    """Only what this server thought can be sent back to it."""
    return base64.b64encode(hashlib.sha256(f"secret of the test:{thinking}".encode()).digest()).decode()


class AnthropicServer(WireServer):
    """`url` is the base URL, with /v1."""

    base = "/v1"

    def check(self, seen: Seen) -> None:
        need(seen.headers.get("x-api-key") == KEY, "invalid x-api-key", 401, "authentication_error")
        need(seen.headers.get("anthropic-version") == "2023-06-01", "anthropic-version: header is required")
        need(seen.headers.get("content-type") == "application/json", "content-type must be application/json")
        body = seen.body
        if seen.path == "/v1/messages/count_tokens":
            only(body, "model messages system tools tool_choice thinking output_config cache_control")
        else:
            need(seen.path == "/v1/messages", "Not found", 404, "not_found_error")
            only(body, _FIELDS)
            need("max_tokens" in body, "max_tokens: Field required")
            need(_is_count(body["max_tokens"]), "max_tokens: Input should be greater than or equal to 1")
        need(isinstance(body.get("model"), str), "model: Field required")
        _check_messages(body.get("messages"))
        _check_system(body.get("system", "x"))
        _check_tools(body)
        _check_rest(body)

    def streams(self, seen: Seen) -> bool:
        return seen.body.get("stream") is True

    def whole(self, seen: Seen, answer: Answer) -> dict[str, Any]:
        if seen.path.endswith("count_tokens"):
            return {"input_tokens": seen.input_tokens}
        return {
            **_message(seen),
            "content": _content(answer),
            "stop_reason": _stop(answer),
            "usage": {**_usage(seen, answer), "output_tokens": answer.output_tokens},
        }

    def events(self, seen: Seen, answer: Answer) -> Iterator[tuple[bytes, int]]:
        start = {**_message(seen), "content": [], "stop_reason": None}
        start["usage"] = {**_usage(seen, answer), "output_tokens": 1}
        yield _event("message_start", message=start), 0
        yield _event("ping"), 0
        for index, block in enumerate(_content(answer)):
            yield from _block_events(index, block, answer)
        delta = {"stop_reason": _stop(answer), "stop_sequence": None}
        usage = {"output_tokens": answer.output_tokens}
        if answer.thinking:
            usage["output_tokens_details"] = {"thinking_tokens": len(answer.thinking.split())}
        yield _event("message_delta", delta=delta, usage=usage), 0
        yield _event("message_stop"), 0

    def error(self, status: int, kind: str, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CSHoEeqs5C35K2"}

    def error_event(self, kind: str, message: str) -> bytes:
        return _event("error", error={"type": kind, "message": message})


def _message(seen: Seen) -> dict[str, Any]:
    return {
        "id": "msg_1nZdL29xx5MUA1yADyHTEsnR8uuvGzszyY",
        "type": "message",
        "role": "assistant",
        "model": seen.body["model"],
        "stop_sequence": None,
    }


def _content(answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.thinking:
        signature = signature_of(answer.thinking)
        blocks.append({"type": "thinking", "thinking": answer.thinking, "signature": signature})
    if answer.pieces:
        blocks.append({"type": "text", "text": "".join(answer.pieces)})
    for call in answer.tools:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments})
    return blocks


def _stop(answer: Answer) -> str:
    return answer.stop or ("tool_use" if answer.tools else "end_turn")


def _usage(seen: Seen, answer: Answer) -> dict[str, Any]:
    return {
        "input_tokens": seen.input_tokens - answer.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": answer.cached,
        "service_tier": "standard",
    }


def _event(kind: str, **told: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **told})}\n\n".encode()


def _block_events(index: int, block: dict[str, Any], answer: Answer) -> Iterator[tuple[bytes, int]]:
    empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}
    start = {**block, **empty[block["type"]]}
    yield _event("content_block_start", index=index, content_block=start), 0
    for delta, tokens in _deltas(block, answer):
        yield _event("content_block_delta", index=index, delta=delta), tokens
    yield _event("content_block_stop", index=index), 0


def _deltas(block: dict[str, Any], answer: Answer) -> Iterator[tuple[dict[str, Any], int]]:
    if block["type"] == "text":
        for piece in answer.pieces:
            yield {"type": "text_delta", "text": piece}, 1
    elif block["type"] == "thinking":
        for word in re.findall(r"\S+\s*", block["thinking"]):
            yield {"type": "thinking_delta", "thinking": word}, 1
        yield {"type": "signature_delta", "signature": block["signature"]}, 0
    else:
        told = json.dumps(block["input"])
        yield {"type": "input_json_delta", "partial_json": ""}, 5
        for cut in range(0, len(told), 7):
            if block["input"]:
                yield {"type": "input_json_delta", "partial_json": told[cut : cut + 7]}, 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_messages(messages: Any) -> None:
    need(isinstance(messages, list) and messages, "messages: at least one message is required")
    open_calls: set[str] = set()
    before = None
    for number, message in enumerate(messages):
        where = f"messages.{number}."
        only(message, "role content", where)
        role = message.get("role")
        need(role in ("user", "assistant"), f"{where}role: Input should be 'user' or 'assistant'")
        need(role != before, f"{where}role: roles must alternate between user and assistant")
        need(number or role == "user", "messages: first message must use the user role")
        before = role
        blocks = _blocks(message.get("content"), where)
        if role == "user":
            _check_results(blocks, open_calls, where)
            open_calls = set()
        else:
            need(not open_calls, f"{where}tool_use ids were found without tool_result blocks immediately after")
            open_calls = {block["id"] for block in blocks if block["type"] == "tool_use"}
            _check_assistant(blocks, where)
    need(not open_calls, "messages: tool_use ids were found without tool_result blocks immediately after")


def _blocks(content: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        need(content, f"{where}content: text content blocks must be non-empty")
        return [{"type": "text", "text": content}]
    need(isinstance(content, list) and content, f"{where}content: Input should be a valid list")
    for block in content:
        kind = block.get("type")
        need(kind in _BLOCKS, f"{where}content: Input tag {kind!r} does not match any of the expected tags")
        only(block, _BLOCKS[kind], f"{where}content.{kind}.")
        _check_block(block, kind, where)
    return content


def _check_block(block: dict[str, Any], kind: str, where: str) -> None:
    if kind == "text":
        need(isinstance(block.get("text"), str) and block["text"], f"{where}text content blocks must be non-empty")
    elif kind in ("image", "document"):
        _check_source(block.get("source", {}), kind, where)
    elif kind == "thinking":
        expected = signature_of(block.get("thinking", ""))
        need(block.get("signature") == expected, f"{where}Invalid `signature` in `thinking` block")
    elif kind == "tool_use":
        need(_ID.fullmatch(str(block.get("id"))), f"{where}tool_use.id: String should match pattern")
        need(isinstance(block.get("input"), dict), f"{where}tool_use.input: Input should be a valid dictionary")
        need(isinstance(block.get("name"), str), f"{where}tool_use.name: Field required")
    elif kind == "tool_result" and block.get("content"):
        inner = _blocks(block["content"], where)
        need(all(part["type"] in ("text", "image") for part in inner), f"{where}tool_result: unexpected content")
    if "cache_control" in block:
        need(block["cache_control"].get("type") == "ephemeral", f"{where}cache_control.type: should be 'ephemeral'")


def _check_source(source: dict[str, Any], kind: str, where: str) -> None:
    if source.get("type") == "url":
        need(str(source.get("url")).startswith("https://"), f"{where}Only HTTPS URLs are supported.")
        return
    need(source.get("type") == "base64", f"{where}source.type: unexpected")
    allowed = ("image/jpeg", "image/png", "image/gif", "image/webp") if kind == "image" else ("application/pdf",)
    need(source.get("media_type") in allowed, f"{where}source.media_type: Input should be one of {allowed}")
    try:
        base64.b64decode(source.get("data", ""), validate=True)
    except ValueError:
        raise RefusedError(f"{where}source.data: invalid base64 data") from None


def _check_results(blocks: list[dict[str, Any]], open_calls: set[str], where: str) -> None:
    results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    need(set(results) <= open_calls, f"{where}unexpected `tool_use_id` found in `tool_result` blocks")
    need(open_calls <= set(results), f"{where}`tool_use` ids were found without `tool_result` blocks immediately after")
    need(len(results) == len(set(results)), f"{where}each tool_use must have a single result")
    kinds = [block["type"] == "tool_result" for block in blocks]
    need(kinds == sorted(kinds, reverse=True), f"{where}tool_result blocks must come first")
    allowed = ("text", "image", "document", "tool_result")
    need(all(block["type"] in allowed for block in blocks), f"{where}unexpected block in a user turn")


def _check_assistant(blocks: list[dict[str, Any]], where: str) -> None:
    allowed = ("text", "tool_use", "thinking", "redacted_thinking")
    need(all(block["type"] in allowed for block in blocks), f"{where}unexpected block in an assistant turn")
    ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
    need(len(ids) == len(set(ids)), f"{where}`tool_use` ids must be unique")


def _check_thought(messages: list[dict[str, Any]]) -> None:
    """With a budget, the turn whose tools are answered must begin with its thinking."""
    last = messages[-1]["content"]
    if isinstance(last, list) and last[0]["type"] == "tool_result":
        first = messages[-2]["content"][0]["type"]
        expected = first in ("thinking", "redacted_thinking")
        need(expected, f"Expected `thinking` or `redacted_thinking`, but found `{first}`")


def _check_system(system: Any) -> None:
    if not isinstance(system, str):
        need(all(block["type"] == "text" for block in _blocks(system, "system.")), "system: only text is allowed")


def _check_tools(body: dict[str, Any]) -> None:
    tools, choice = body.get("tools") or [], body.get("tool_choice")
    for number, tool in enumerate(tools):
        only(tool, "name description input_schema cache_control strict type", f"tools.{number}.")
        name = str(tool.get("name"))
        need(re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", name), f"tools.{number}.name: String should match pattern")
        need(tool.get("input_schema", {}).get("type") == "object", f"tools.{number}.input_schema.type: Field required")
    if choice is None:
        return
    need(tools, "tool_choice may only be specified while providing tools")
    only(choice, "type name disable_parallel_tool_use", "tool_choice.")
    need(choice.get("type") in ("auto", "any", "tool", "none"), "tool_choice.type: unexpected")
    if choice["type"] == "tool":
        names = [tool["name"] for tool in tools]
        need(choice.get("name") in names, f"Tool '{choice.get('name')}' not found in provided tools")


def _check_rest(body: dict[str, Any]) -> None:
    need(isinstance(body.get("stream", False), bool), "stream: Input should be a valid boolean")
    need(0 <= body.get("temperature", 1) <= 1, "temperature: range: -1 < value <= 1")
    for stop in body.get("stop_sequences", []):
        need(isinstance(stop, str) and stop.strip(), "stop_sequences: each stop sequence must contain non-whitespace")
    only(body.get("metadata", {}), "user_id", "metadata.")
    need(body.get("service_tier", "auto") in ("auto", "standard_only"), "service_tier: unexpected")
    thinking = body.get("thinking", {"type": "disabled"})
    only(thinking, "type budget_tokens display", "thinking.")
    need(thinking.get("type") in ("enabled", "disabled", "adaptive"), "thinking.type: unexpected")
    if thinking["type"] == "enabled":
        _check_thought(body["messages"])
        budget = thinking.get("budget_tokens", 0)
        need(budget >= 1024, "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        need(budget < body["max_tokens"], "`max_tokens` must be greater than `thinking.budget_tokens`")
    config = body.get("output_config", {})
    only(config, "effort format", "output_config.")
    need(config.get("effort", "high") in ("low", "medium", "high", "xhigh", "max"), "output_config.effort: unexpected")
    if "format" in config:
        only(config["format"], "type schema", "output_config.format.")
        need(config["format"].get("type") == "json_schema", "output_config.format.type: unexpected")
        need(isinstance(config["format"].get("schema"), dict), "output_config.format.schema: Field required")
