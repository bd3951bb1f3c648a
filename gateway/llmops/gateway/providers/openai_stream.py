"""Reads streamed replies in OpenAI's formats while they pass: usage, model, errors, the end, and how much came.

Two ways: a relay passes the bytes on and parses only the few events that matter, since most carry one token and
nothing else to know; a reader turns every event into a chunk for another dialect. Neither repeats an error event: the
fault is kept, and the caller's dialect tells it.

Tokens of a stream that is cut are counted as the larger of two estimates: the events that carried text (servers send
about one token in each), and a quarter of the text's bytes (about four bytes a token of English, for servers that put
several tokens into one event).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from llmops.gateway.calls import Fault, Json, Usage
from llmops.gateway.providers.faults import stream_fault
from llmops.gateway.providers.openai_reply import read_usage
from llmops.gateway.sse import Splitter, blocks, read_event

_TEXT = re.compile(
    rb'"(?:content|reasoning_content|reasoning|thinking|refusal|arguments|text|delta)":\s?"((?:[^"\\]++|\\.)++)"'
)
_BYTES_A_TOKEN = 4
_DONE = b"[DONE]"

Rewrite = Callable[[Json], bool]
"""Mends an event of a server that is not quite like OpenAI's; whether it changed anything."""


class _Seen:
    """What is known of a stream so far, and the text that came with it.

    A usage counts only what came before it: text that follows makes it void, until the next one.
    """

    def __init__(self, secret: str | None) -> None:
        self.usage: Usage | None = None
        self.model: str | None = None
        self.finished = False
        self.fault: Fault | None = None
        self._secret = secret
        self._splitter = Splitter()
        self._begun = False
        self._events = 0
        self._text_bytes = 0

    @property
    def received(self) -> int:
        return max(self._events, self._text_bytes // _BYTES_A_TOKEN)

    def _whole(self, data: bytes) -> bytes:
        """The whole events at hand; none once the stream has failed."""
        if self.fault is not None:
            return b""
        if not self._begun and not self._begins(data):
            return b""
        try:
            return self._splitter.whole(data)
        except Fault as fault:
            self.fault = fault
            return b""

    def _begins(self, data: bytes) -> bool:
        """Whether this can be a stream of events; a server that answers with JSON or a page has ignored `stream`."""
        first = data.lstrip()[:1]
        if not first:
            return False
        self._begun = True
        if first not in b"{[<":
            return True
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            value = None
        told = isinstance(value, dict) and value.get("error")
        self.fault = stream_fault(value, self._secret) if told else _invalid("answered a stream with no event stream")
        return False

    def _parsed(self, data: bytes) -> Json | None:
        """The object in an event's data; None, and a fault, for anything else or an error."""
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            self.fault = _invalid("sent an event that is no JSON object")
            return None
        if value.get("error"):
            self.fault = stream_fault(value, self._secret)
            return None
        return value

    def _count(self, data: bytes) -> None:
        for text in _TEXT.findall(data):
            self._events += 1
            self._text_bytes += len(text)
            if text:
                self.usage = None


class ChatRelay(_Seen):
    """Passes on `chat` or `completions`.

    Args:
        wants_usage: whether the caller asked for the usage event, which we always ask for.
        choices: how many answers the stream holds; it may end without `[DONE]` once all of them have ended.
        rewrite: for servers that differ; `differs` is what such an event's bytes contain.
    """

    def __init__(
        self,
        *,
        wants_usage: bool,
        choices: int = 1,
        secret: str | None = None,
        rewrite: Rewrite | None = None,
        differs: bytes = b"",
        marker: bytes = b'"content":"',
    ) -> None:
        super().__init__(secret)
        self._wants_usage = wants_usage
        self._open_choices = choices
        self._rewrite = rewrite
        self._differs = differs
        self._marker = marker
        self._known = False
        self._half = False
        """Whether the last event was taken out and ended in a CR, whose LF may come by itself."""

    def feed(self, data: bytes) -> bytes:
        if self.fault is not None or self._splitter.pending or data[-2:] != b"\n\n" or not self._begun:
            data = self._whole(data)
            if not data:
                return b""
        if self._half:
            self._half = False
            data = data.removeprefix(b"\n")
        events = data.count(b"data:")
        if (
            data.count(b'"finish_reason":null') < events
            or b'"error"' in data
            or (b'"usage"' in data and data.count(b'"usage":null') < data.count(b'"usage"'))
            or not self._known
            or (self._differs and self._differs in data)
        ):
            return b"".join([kept for block in blocks(data) if (kept := self._passed(block))])
        start = data.find(self._marker) if events == 1 else -1
        length = data.find(b'"', start + len(self._marker)) - start - len(self._marker) if start >= 0 else 0
        if length > 0:
            self._events += 1
            self._text_bytes += length
            self.usage = None
        else:
            self._count(data)
        return data

    def _passed(self, block: bytes) -> bytes:
        """One event as it goes to the caller, empty for none."""
        event = read_event(block)
        if event is None or self.fault is not None:
            return block if self.fault is None else b""
        if event[1].strip() == _DONE:
            self.finished = True
            return block
        value = self._parsed(event[1])
        if value is None:
            return b""
        self._count(block)
        kept = self._kept(value)
        if self._rewrite is not None:
            block = self._mended(value, block)
        self._half = not kept and block.endswith(b"\r")
        return block if kept else b""

    def _mended(self, value: Json, block: bytes) -> bytes:
        """The event as OpenAI would send it: in its words, the usage in an event of its own."""
        assert self._rewrite is not None
        changed, usage = self._rewrite(value), None
        if value.get("choices") and value.get("usage"):
            usage, changed = value.pop("usage"), True
        if not changed:
            return block
        mended = b"data: " + orjson.dumps(value) + b"\n\n"
        if usage is not None and self._wants_usage:
            mended += b"data: " + orjson.dumps({**value, "choices": [], "usage": usage}) + b"\n\n"
        return mended

    def _kept(self, value: Json) -> bool:
        model, usage, choices = value.get("model"), read_usage(value.get("usage")), value.get("choices")
        self._known = True
        if isinstance(model, str) and (model or self.model is None):
            self.model = model
        self.usage = usage or self.usage
        if not choices:
            return usage is None or self._wants_usage
        self._open_choices -= _ended(choices)
        self.finished = self.finished or self._open_choices <= 0
        return True


class ResponsesRelay(_Seen):
    """Passes on `responses`, whose last event holds the usage within the whole response."""

    _MARKER = b'"delta":"'

    def feed(self, data: bytes) -> bytes:
        if self.fault is not None or self._splitter.pending or data[-2:] != b"\n\n" or not self._begun:
            data = self._whole(data)
            if not data:
                return b""
        if b'"response"' in data or b'"error"' in data or b'"type"' not in data:
            return b"".join([block for block in blocks(data) if self._passes(block)])
        if b'.delta"' in data:
            start = data.find(self._MARKER) if data.count(b"data:") == 1 else -1
            length = data.find(b'"', start + len(self._MARKER)) - start - len(self._MARKER) if start >= 0 else 0
            if length > 0:
                self._events += 1
                self._text_bytes += length
            else:
                self._count_deltas(data)
        return data

    def _count_deltas(self, data: bytes) -> None:
        for block in blocks(data):
            if b'.delta"' in block:  # `done` events repeat the text
                self._count(block)

    def _passes(self, block: bytes) -> bool:
        event = read_event(block)
        if event is None or self.fault is not None:
            return self.fault is None
        if event[1].strip() == _DONE:
            return True
        value = self._parsed(event[1])
        if value is None:
            return False
        kind, response = value.get("type"), value.get("response")
        if kind == "error":
            self.fault = stream_fault({"error": value}, self._secret)
        elif isinstance(response, dict):
            self._learn(str(kind), response)
        elif b'.delta"' in block:
            self._count(block)
        return self.fault is None

    def _learn(self, kind: str, response: Json) -> None:
        model = response.get("model")
        self.model = model if isinstance(model, str) else self.model
        self.usage = read_usage(response.get("usage")) or self.usage
        if kind in ("response.completed", "response.incomplete"):
            self.finished = True
        elif kind in ("response.failed", "response.cancelled"):
            self.fault = stream_fault({"error": response.get("error") or {}}, self._secret)


class ChatReader(_Seen):
    """The chunks of a chat stream, each a whole `chat.completion.chunk`; the usage is always a chunk of its own."""

    def __init__(self, *, choices: int = 1, secret: str | None = None, rewrite: Rewrite | None = None) -> None:
        super().__init__(secret)
        self._open_choices = choices
        self._rewrite = rewrite
        self._held: Json | None = None
        self._told = False

    def feed(self, data: bytes) -> list[Json]:
        data = self._whole(data)
        if not data:
            return []
        chunks: list[Json] = []
        for block in blocks(data):
            event = read_event(block)
            if event is None:
                continue
            if self.fault is not None:
                break
            if event[1].strip() == _DONE:
                self.finished = True
                chunks += self._usage_chunk()
                continue
            value = self._parsed(event[1])
            if value is None:
                break
            self._count(block)
            chunks += self._chunks(value)
        return chunks

    def _chunks(self, value: Json) -> list[Json]:
        if self._rewrite is not None:
            self._rewrite(value)
        model = value.get("model")
        self.model = model if isinstance(model, str) else self.model
        choices = value.get("choices")
        if not isinstance(choices, list) or not all(_is_chunk_choice(choice) for choice in choices):
            self.fault = _invalid("sent an event that is no chat chunk")
            return []
        usage = value.pop("usage", None)
        if (told := read_usage(usage)) is not None:
            self.usage = told
            self._held = {**value, "choices": [], "usage": usage}
        if not choices:
            return self._usage_chunk()
        self._open_choices -= _ended(choices)
        if self._open_choices > 0:
            return [value]
        self.finished = True
        return [value, *self._usage_chunk()]

    def _usage_chunk(self) -> list[Json]:
        """What is held of the usage, once: some servers tell it with every chunk, some with the last one."""
        held, self._held = self._held, None
        if held is None or self._told:
            return []
        self._told = True
        return [held]


def _is_chunk_choice(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.setdefault("delta", {})
    if delta is None:
        choice["delta"] = {}
    return isinstance(choice["delta"], dict)


def _ended(choices: Any) -> int:
    if not isinstance(choices, list):
        return 0
    return sum(1 for choice in choices if isinstance(choice, dict) and choice.get("finish_reason"))


def _invalid(what: str) -> Fault:
    return Fault("invalid", f"the provider {what}")
