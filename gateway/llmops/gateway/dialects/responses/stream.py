"""Chat chunks as the events of a streamed response.

Keeps what was said, since the last event repeats the whole response. Text and reasoning are told one after the other;
calls stay open to the end, because some servers send their pieces in turns. Knows no provider.

Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmops.gateway.calls import Fault, Json
from llmops.gateway.dialects.openai_errors import error_json
from llmops.gateway.dialects.responses.reply import (
    Ids,
    close,
    custom_item,
    function_item,
    message_item,
    outline,
    reasoning_item,
    reasoning_text,
    text_part,
    token_logprobs,
    usage_json,
)
from llmops.gateway.reading import UPSTREAM, dumped

Kind = Literal["reasoning", "text", "refusal", "function", "custom"]
_ERROR_CODES = {"rate_limited": "rate_limit_exceeded", "content_filtered": "invalid_prompt"}


@dataclass(slots=True)
class _Item:
    """One item of the output while it is being said."""

    kind: Kind
    position: int
    value: Json
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    is_open: bool = True

    @property
    def text(self) -> str:
        return "".join(self.pieces)


_DELTAS: dict[Kind, str] = {
    "reasoning": "response.reasoning_summary_text",
    "text": "response.output_text",
    "refusal": "response.refusal",
    "function": "response.function_call_arguments",
    "custom": "response.custom_tool_call_input",
}


class ResponsesWriter:
    """One stream."""

    def __init__(self, request: Json) -> None:
        self._request = request
        self._response: Json | None = None
        self._ids = Ids(None)
        self._items: list[_Item] = []
        self._current: _Item | None = None
        self._calls: dict[Any, _Item] = {}
        self._finish: Any = None
        self._sequence = 0
        self._out: list[bytes] = []

    def feed(self, chunks: Sequence[Json]) -> bytes:
        for chunk in chunks:
            self._begin(chunk)
            assert self._response is not None
            if chunk.get("usage"):
                self._response["usage"] = usage_json(chunk["usage"])
            for choice in UPSTREAM.objects(chunk.get("choices"), "choices")[:1]:
                self._say(choice)
        return self._taken()

    def end(self) -> bytes:
        self._begin({})
        assert self._response is not None
        close(self._response, self._finish)
        for item in self._items:
            self._end_item(item)
        self._response["output"] = [item.value for item in self._items]
        self._event(f"response.{self._response['status']}", response=self._response)
        return self._taken()

    def fault(self, fault: Fault) -> bytes:
        """A failed response, where one has begun; then the plain `error` that OpenAI's clients raise on."""
        told = error_json(fault)
        if self._response is not None:
            self._response["status"] = "failed"
            code = _ERROR_CODES.get(fault.kind, "server_error")
            self._response["error"] = {"code": code, "message": told["message"]}
            self._response["output"] = [item.value for item in self._items if not item.is_open]
            self._event("response.failed", response=self._response)
        self._event("error", code=told["code"], message=told["message"], param=told["param"], error=told)
        return self._taken()

    # --- one chunk ---------------------------------------------------------------------------------------------------

    def _begin(self, chunk: Json) -> None:
        if self._response is not None:
            return
        self._ids = Ids(chunk.get("id"))
        self._response = outline(self._ids, chunk, self._request)
        self._event("response.created", response=self._response)
        self._event("response.in_progress", response=self._response)

    def _say(self, choice: Json) -> None:
        delta = UPSTREAM.object(choice.get("delta") or {}, "choices.0.delta")
        self._finish = choice.get("finish_reason") or self._finish
        if reasoning := reasoning_text(delta):
            self._extend(self._item("reasoning"), reasoning)
        if content := UPSTREAM.optional_text(delta.get("content"), "choices.0.delta.content"):
            self._extend(self._item("text"), content, token_logprobs(choice.get("logprobs")))
        if refusal := UPSTREAM.optional_text(delta.get("refusal"), "choices.0.delta.refusal"):
            self._extend(self._item("refusal"), refusal)
        for number, call in enumerate(UPSTREAM.objects(delta.get("tool_calls"), "choices.0.delta.tool_calls")):
            self._say_call(call, number)

    def _say_call(self, call: Json, number: int) -> None:
        index = call.get("index", number)
        if not isinstance(index, int):
            raise UPSTREAM.fault("tool_calls.index", "must be a number")
        kind: Kind = "custom" if "custom" in call else "function"
        said = UPSTREAM.object(call.get(kind) or {}, f"tool_calls.{kind}")
        item = self._calls.get(index)
        if item is None:
            self._end_current()
            call_id = call.get("id") or self._ids.next("call")
            name = UPSTREAM.text(said.get("name") or "", "tool_calls.name")
            build, prefix = (custom_item, "ctc") if kind == "custom" else (function_item, "fc")
            value = build(self._ids.next(prefix), UPSTREAM.text(call_id, "tool_calls.id"), name)
            item = self._calls[index] = self._added(kind, value)
        argument = said.get("input" if kind == "custom" else "arguments")
        if text := UPSTREAM.optional_text(argument, "tool_calls.arguments"):
            self._extend(item, text)

    def _item(self, kind: Kind) -> _Item:
        """The item being said, or a new one of this kind."""
        if self._current is not None and self._current.kind == kind:
            return self._current
        self._end_current()
        if kind == "reasoning":
            item = self._added(
                kind, {**reasoning_item(self._ids.next("rs"), ""), "summary": [], "status": "in_progress"}
            )
            part: Json = {"type": "summary_text", "text": ""}
            self._item_event("response.reasoning_summary_part.added", item, part=part)
        else:
            item = self._added(kind, message_item(self._ids.next("msg"), [], "in_progress"))
            part = text_part("", []) if kind == "text" else {"type": "refusal", "refusal": ""}
            self._item_event("response.content_part.added", item, part=part)
        self._current = item
        return item

    def _added(self, kind: Kind, value: Json) -> _Item:
        item = _Item(kind, len(self._items), value)
        self._items.append(item)
        self._event("response.output_item.added", output_index=item.position, item=value)
        return item

    def _extend(self, item: _Item, text: str, logprobs: list[Json] | None = None) -> None:
        item.pieces.append(text)
        item.logprobs += logprobs or []
        more: Json = {"logprobs": logprobs or []} if item.kind == "text" else {}
        self._item_event(f"{_DELTAS[item.kind]}.delta", item, delta=text, **more)

    # --- the end of an item ------------------------------------------------------------------------------------------

    def _end_current(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            self._end_item(current)

    def _end_item(self, item: _Item) -> None:
        if not item.is_open:
            return
        item.is_open = False
        text = item.text
        done = f"{_DELTAS[item.kind]}.done"
        if item.kind == "function":
            self._item_event(done, item, arguments=text, name=item.value["name"])
            item.value = {**item.value, "arguments": text, "status": "completed"}
        elif item.kind == "custom":
            self._item_event(done, item, input=text)
            item.value = {**item.value, "input": text, "status": "completed"}
        elif item.kind == "reasoning":
            item.value = reasoning_item(item.value["id"], text)
            self._item_event(done, item, text=text)
            self._item_event("response.reasoning_summary_part.done", item, part=item.value["summary"][0])
        else:
            self._end_message(item, done, text)
        self._event("response.output_item.done", output_index=item.position, item=item.value)

    def _end_message(self, item: _Item, done: str, text: str) -> None:
        if item.kind == "text":
            part = text_part(text, item.logprobs)
            self._item_event(done, item, text=text, logprobs=item.logprobs)
        else:
            part = {"type": "refusal", "refusal": text}
            self._item_event(done, item, refusal=text)
        self._item_event("response.content_part.done", item, part=part)
        cut = self._response is not None and self._response["status"] == "incomplete"
        item.value = message_item(item.value["id"], [part], "incomplete" if cut else "completed")

    # --- events ------------------------------------------------------------------------------------------------------

    def _item_event(self, kind: str, item: _Item, **fields: Any) -> None:
        place: Json = {"item_id": item.value["id"], "output_index": item.position}
        if item.kind == "reasoning":
            place["summary_index"] = 0
        elif item.kind in ("text", "refusal"):
            place["content_index"] = 0
        self._event(kind, **place, **fields)

    def _event(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        self._out.append(b"event: " + kind.encode() + b"\ndata: " + dumped(event) + b"\n\n")

    def _taken(self) -> bytes:
        out, self._out = b"".join(self._out), []
        return out
