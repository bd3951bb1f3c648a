"""Rebuilds the whole answer from its stream, for the log: a row holds an answer, not its pieces.

Knows the events of OpenAI's chat, completions and responses and of Anthropic's messages. Takes what is there: a stream
that was cut gives the answer as far as it came, and bytes that are no events give nothing. Never raises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import orjson

from llmops.gateway.calls import Json, Operation
from llmops.gateway.sse import blocks, read_event

_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")


def assembled(operation: Operation, raw: bytes) -> Json:
    """The answer that the events in `raw` make together; an empty object where they make none."""
    events = _events(raw)
    if operation == "responses":
        return _response(events)
    if operation in ("chat", "completions"):
        return _completion(events, operation)
    return _message(events) if operation == "messages" else {}


def _events(raw: bytes) -> Iterator[Json]:
    for block in blocks(raw):
        event = read_event(block)
        if event is None:
            continue
        try:
            value = orjson.loads(event[1])
        except orjson.JSONDecodeError:
            continue  # [DONE], or the half event of a cut stream
        if isinstance(value, dict):
            yield value


def _completion(events: Iterator[Json], operation: Operation) -> Json:
    whole: Json = {}
    choices: dict[int, Json] = {}
    for event in events:
        for name, value in event.items():
            if name not in ("choices", "object", "obfuscation") and value is not None:
                whole[name] = value
        found = event.get("choices")
        for choice in found if isinstance(found, list) else ():
            if isinstance(choice, dict) and isinstance(index := choice.get("index", 0), int):
                _add_choice(choices.setdefault(index, {"index": index}), choice)
    if not whole and not choices:
        return {}
    kind = "chat.completion" if operation == "chat" else "text_completion"
    return {**whole, "object": kind, "choices": [_closed(choices[index]) for index in sorted(choices)]}


def _add_choice(into: Json, choice: Json) -> None:
    if choice.get("finish_reason") is not None:
        into["finish_reason"] = choice["finish_reason"]
    if isinstance(choice.get("text"), str):
        into.setdefault("text", []).append(choice["text"])
    if isinstance(choice.get("logprobs"), dict):
        _add_lists(into.setdefault("logprobs", {}), choice["logprobs"])
    if isinstance(choice.get("delta"), dict):
        _add_delta(into.setdefault("message", {"role": "assistant", "content": None}), choice["delta"])


def _add_delta(message: Json, delta: Json) -> None:
    for name, value in delta.items():
        if name == "tool_calls" and isinstance(value, list):
            _add_calls(message.setdefault("tool_calls", {}), value)
        elif name in _TEXTS and isinstance(value, str):
            if not isinstance(message.get(name), list):
                message[name] = []
            message[name].append(value)
        elif isinstance(value, list) and name not in _TEXTS:
            kept = message.setdefault(name, [])
            if isinstance(kept, list):
                kept += value
        elif value is not None and name not in _TEXTS and name != "tool_calls":
            message[name] = value


def _add_calls(calls: dict[int, Json], deltas: list[Any]) -> None:
    for delta in deltas:
        if not isinstance(delta, dict) or not isinstance(index := delta.get("index", 0), int):
            continue
        call = calls.setdefault(index, {})
        for name, value in delta.items():
            if name in ("function", "custom"):
                _add_said(call.setdefault(name, {}), value if isinstance(value, dict) else {})
            elif name != "index" and value is not None:
                call[name] = value


def _add_said(said: Json, value: Json) -> None:
    for name, text in value.items():
        if name in ("arguments", "input") and isinstance(text, str):
            said.setdefault(name, []).append(text)
        elif text is not None and name not in ("arguments", "input"):
            said[name] = text


def _add_lists(into: Json, lists: Json) -> None:
    for name, value in lists.items():
        if isinstance(value, list):
            into.setdefault(name, []).extend(value)


def _closed(choice: Json) -> Json:
    """The pieces joined."""
    if isinstance(choice.get("text"), list):
        choice["text"] = "".join(choice["text"])
    choice.setdefault("finish_reason", None)
    message = choice.get("message")
    if not isinstance(message, dict):
        return choice
    for name in _TEXTS:
        if isinstance(message.get(name), list):
            message[name] = "".join(message[name])
    calls = message.get("tool_calls")
    if isinstance(calls, dict):
        message["tool_calls"] = [_closed_call(calls[index]) for index in sorted(calls)]
    return choice


def _closed_call(call: Json) -> Json:
    for kind in ("function", "custom"):
        for name in ("arguments", "input"):
            if isinstance(call.get(kind), dict) and isinstance(call[kind].get(name), list):
                call[kind][name] = "".join(call[kind][name])
    return call


def _response(events: Iterator[Json]) -> Json:
    """The last whole response told, with the items that were done where it came to no end."""
    response: Json = {}
    done: dict[int, Any] = {}
    open_text: dict[tuple[int, int], list[str]] = {}
    for event in events:
        if isinstance(event.get("response"), dict):
            response = event["response"]
        place = event.get("output_index"), event.get("content_index", 0)
        kind = event.get("type")
        if not isinstance(place[0], int) or not isinstance(place[1], int):
            continue
        if kind == "response.output_item.done":
            done[place[0]] = event.get("item")
        elif kind == "response.output_text.delta" and isinstance(event.get("delta"), str):
            open_text.setdefault((place[0], place[1]), []).append(event["delta"])
    if not response.get("output") and (done or open_text):
        for (position, _), pieces in open_text.items():
            done.setdefault(position, _cut_message("".join(pieces)))
        response = {**response, "output": [done[position] for position in sorted(done)]}
    return response


def _cut_message(text: str) -> Json:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "status": "incomplete", "content": [part]}


_BLOCK_TEXTS = {"text": "text", "thinking": "thinking", "signature": "signature", "partial_json": "input"}


def _message(events: Iterator[Json]) -> Json:
    """Anthropic's message; a tool's input stays the JSON text that it came as where it is not whole."""
    whole: Json = {}
    found: dict[int, Json] = {}
    for event in events:
        kind, index, delta = event.get("type"), event.get("index"), event.get("delta")
        if kind == "message_start" and isinstance(event.get("message"), dict):
            whole = dict(event["message"])
        elif kind == "message_delta":
            whole |= delta if isinstance(delta, dict) else {}
            if isinstance(event.get("usage"), dict):
                told = whole.get("usage")
                whole["usage"] = {**(told if isinstance(told, dict) else {}), **event["usage"]}
        elif kind == "content_block_start" and isinstance(index, int):
            block = event.get("content_block")
            found[index] = dict(block) if isinstance(block, dict) else {}
        elif kind == "content_block_delta" and isinstance(index, int) and isinstance(delta, dict):
            _add_block(found.setdefault(index, {}), delta)
    if whole or found:
        whole["content"] = [_closed_block(found[index]) for index in sorted(found)]
    return whole


def _add_block(block: Json, delta: Json) -> None:
    for name, place in _BLOCK_TEXTS.items():
        if isinstance(delta.get(name), str):
            if not isinstance(block.get(place), list):
                block[place] = [block[place]] if isinstance(block.get(place), str) else []
            block[place].append(delta[name])


def _closed_block(block: Json) -> Json:
    for place in _BLOCK_TEXTS.values():
        pieces = block.get(place)
        if isinstance(pieces, list) and all(isinstance(piece, str) for piece in pieces):
            block[place] = "".join(pieces)
    if isinstance(block.get("input"), str):
        with contextlib.suppress(orjson.JSONDecodeError):
            block["input"] = orjson.loads(block["input"] or "{}")
    return block
