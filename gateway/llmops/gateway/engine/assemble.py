"""Puts a streamed reply together again, as the whole reply it would have been, for the log.

Reads the events as they went to the caller, in the caller's format. What does not read is left out: this is a record,
and the stream it is of may have been cut anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import orjson

from llmops.gateway.calls import Json, Operation, Usage


def assembled(operation: Operation, events: list[bytes], usage: Usage) -> Json:
    """The whole reply of a stream's bytes."""
    whole = _WAYS.get(operation, _chat)(list(_values(b"".join(events))))
    if not whole.get("usage"):
        whole["usage"] = {name: value for name, value in asdict(usage).items() if value}
    return whole


def _values(data: bytes) -> Iterator[Json]:
    for line in data.splitlines():
        if not line.startswith(b"data:"):
            continue
        try:
            value = orjson.loads(line[5:])
        except orjson.JSONDecodeError:
            continue
        if isinstance(value, dict):
            yield value


def _chat(chunks: list[Json]) -> Json:
    whole: Json = {"object": "chat.completion"}
    choices: dict[int, Json] = {}
    for chunk in chunks:
        _head(whole, chunk)
        for part in _dicts(chunk.get("choices")):
            index = part.get("index", 0)
            choice = choices.setdefault(
                index, {"index": index, "message": {"role": "assistant"}, "finish_reason": None}
            )
            if part.get("finish_reason") is not None:
                choice["finish_reason"] = part["finish_reason"]
            delta = part.get("delta")
            if isinstance(delta, dict):
                _add_delta(choice["message"], delta)
    whole["choices"] = [choices[index] for index in sorted(choices, key=str)]
    return whole


def _add_delta(message: Json, delta: Json) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for part in _dicts(value):
                _add_call(calls, part)
        elif isinstance(value, str) and name != "role":
            message[name] = (message.get(name) or "") + value
        elif value is not None:
            message[name] = value


def _add_call(calls: list[Json], part: Json) -> None:
    index = part.get("index", len(calls))
    call = next((call for call in calls if call.get("index") == index), None)
    if call is None:
        call = {"index": index, "type": "function", "function": {"name": "", "arguments": ""}}
        calls.append(call)
    if part.get("id"):
        call["id"] = part["id"]
    function = part.get("function")
    if isinstance(function, dict):
        for name in ("name", "arguments"):
            if isinstance(function.get(name), str):
                call["function"][name] += function[name]


def _completions(chunks: list[Json]) -> Json:
    whole: Json = {"object": "text_completion"}
    choices: dict[int, Json] = {}
    for chunk in chunks:
        _head(whole, chunk)
        for part in _dicts(chunk.get("choices")):
            index = part.get("index", 0)
            choice = choices.setdefault(index, {"index": index, "text": "", "finish_reason": None})
            if isinstance(part.get("text"), str):
                choice["text"] += part["text"]
            if part.get("finish_reason") is not None:
                choice["finish_reason"] = part["finish_reason"]
    whole["choices"] = [choices[index] for index in sorted(choices, key=str)]
    return whole


def _responses(events: list[Json]) -> Json:
    """The last event holds the whole response; a stream that was cut has its text in pieces."""
    whole: Json = {"object": "response"}
    text = ""
    for event in events:
        response = event.get("response")
        if isinstance(response, dict):
            whole = response
        elif event.get("type") == "response.output_text.delta" and isinstance(event.get("delta"), str):
            text += event["delta"]
        elif event.get("type") == "error":
            whole = {**whole, "error": event}
    if not whole.get("output") and text:
        part = {"type": "output_text", "text": text}
        whole = {**whole, "output": [{"type": "message", "role": "assistant", "content": [part]}]}
    return whole


def _messages(events: list[Json]) -> Json:
    whole: Json = {"type": "message", "role": "assistant"}
    blocks: dict[int, Json] = {}
    for event in events:
        kind = event.get("type")
        if kind == "message_start" and isinstance(event.get("message"), dict):
            whole = dict(event["message"])
        elif kind == "content_block_start" and isinstance(event.get("content_block"), dict):
            blocks[event.get("index", len(blocks))] = dict(event["content_block"])
        elif kind == "content_block_delta" and isinstance(event.get("delta"), dict):
            _add_block(blocks.setdefault(event.get("index", 0), {}), event["delta"])
        elif kind == "message_delta":
            delta, usage = event.get("delta"), event.get("usage")
            if isinstance(delta, dict):
                whole.update(delta)
            if isinstance(usage, dict):
                whole["usage"] = {**(whole.get("usage") or {}), **usage}
        elif kind == "error":
            whole["error"] = event.get("error")
    whole["content"] = [blocks[index] for index in sorted(blocks, key=str)]
    return whole


def _add_block(block: Json, delta: Json) -> None:
    for name in ("text", "thinking", "partial_json", "signature"):
        if isinstance(delta.get(name), str):
            place = "input_json" if name == "partial_json" else name
            block[place] = (block.get(place) or "") + delta[name]


def _head(whole: Json, chunk: Json) -> None:
    for name in ("id", "created", "model", "system_fingerprint", "service_tier"):
        if name not in whole and chunk.get(name) is not None:
            whole[name] = chunk[name]
    for name in ("usage", "error"):
        if chunk.get(name):
            whole[name] = chunk[name]


def _dicts(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


_WAYS: dict[Operation, Callable[[list[Json]], Json]] = {
    "chat": _chat,
    "completions": _completions,
    "responses": _responses,
    "messages": _messages,
}
