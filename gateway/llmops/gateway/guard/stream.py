"""Guards a reply while it streams: holds back what may become a finding, and nothing more.

Chat (or completions) chunks in, chunks out. Each text of each choice (content, reasoning, refusal, each tool call's
arguments) is a lane of its own; its released text, joined, is what `check_output` would make of the whole. A lane ends
where the next one of its choice begins. Of a match longer than the window only that it goes on is remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from llmops.gateway.calls import Fault, Json
from llmops.gateway.guard.detectors import CONTEXT_CHARS, Span, masked, merged

if TYPE_CHECKING:
    from llmops.gateway.guard.guards import Action, Check

HELD_CHARS = 1024
"""Most that is held back of a text in which nothing is found yet; every form we look for shows itself earlier."""
_KEPT_CHARS = 256  # of each end of a match that grows
_LOOK_AHEAD = 2  # characters behind a match that can still undo it
_FIELDS = ("reasoning_content", "reasoning", "content", "refusal", "text")

_Lane = tuple[str, int]


class StreamGuard:
    """The guard of one stream. Once `fault` is set the stream is over: nothing more comes out."""

    def __init__(
        self, holding: Sequence[Check], logging: Sequence[Check], max_chars: Sequence[tuple[int, Action]]
    ) -> None:
        self.fault: Fault | None = None
        self._holding, self._logging, self._max_chars = holding, logging, max_chars
        self._findings: dict[str, None] = {}
        self._chars = 0
        self._lanes: dict[int, dict[_Lane, tuple[_Scanner, _Scanner]]] = {}
        self._template: Json = {}

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of what was found so far, for the log's tags."""
        return tuple(self._findings)

    def feed(self, chunks: Iterable[Json]) -> list[Json]:
        """The chunks that may go on now; those that come in are changed and must not be used again."""
        out: list[Json] = []
        for chunk in chunks:
            if self.fault is not None:
                break
            out += self._pass_on(chunk)
        return out

    def finish(self) -> list[Json]:
        """What was still held of a stream that ended without saying so."""
        out: list[Json] = []
        for index in list(self._lanes):
            if self.fault is None:
                out += self._flush(index, frozenset())
        return out

    def _pass_on(self, chunk: Json) -> Iterator[Json]:
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices:
            yield chunk
            return
        self._template = {key: value for key, value in chunk.items() if key not in ("choices", "usage")}
        kept = []
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            index = _number(choice)
            spoken = _texts(choice)
            ended = choice.get("finish_reason") is not None
            if spoken:
                yield from self._flush(index, frozenset(lane for lane, *_ in spoken))
            held = False
            for lane, holder, key in spoken:
                said = holder[key]
                holder[key] = self._push(index, lane, said)
                held = held or len(holder[key]) < len(said)
            if self._holding and choice.get("logprobs"):
                choice["logprobs"] = None  # they spell out what is held
            if ended:
                yield from self._flush(index, frozenset())
            if self.fault is not None:
                return
            if ended or not held or _says_something(choice):
                kept.append(choice)
        if kept or chunk.get("usage"):
            chunk["choices"] = kept
            yield chunk

    def _push(self, index: int, lane: _Lane, said: str) -> str:
        """What of the lane's text may go on."""
        self._chars += len(said)
        for limit, action in self._max_chars:
            if self._chars > limit:
                self._findings["max_chars"] = None
                if action == "block":
                    self._block(f"the reply is longer than {limit} characters")
                    return ""
        lanes = self._lanes.setdefault(index, {})
        if lane not in lanes:
            lanes[lane] = (_Scanner(self._holding), _Scanner(self._logging))
        holding, logging = lanes[lane]
        if self._logging:
            logging.push(said)
        released = holding.push(said) if self._holding else said
        self._note(holding, logging)
        return "" if self.fault else released

    def _flush(self, index: int, but: frozenset[_Lane]) -> Iterator[Json]:
        """The held text of the choice's lanes that are over, as chunks of their own."""
        lanes = self._lanes.get(index)
        for lane in [lane for lane in lanes if lane not in but] if lanes else ():
            assert lanes is not None
            holding, logging = lanes.pop(lane)
            logging.push("", final=True)
            text = holding.push("", final=True)
            self._note(holding, logging)
            if text and self.fault is None:
                yield {**self._template, "choices": [_said(index, lane, text)]}

    def _note(self, *scanners: _Scanner) -> None:
        for scanner in scanners:
            self._findings.update(scanner.findings)
            if scanner.blocked:
                self._block(f"refused by the guard `{scanner.blocked}`")

    def _block(self, reason: str) -> None:
        if self.fault is None:
            self.fault = Fault("content_filtered", reason, status=400, code="content_filter")


class _Scanner:
    """One lane under some checks: releases what is final."""

    __slots__ = ("_checks", "_context", "_pending", "blocked", "findings")

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = checks
        self._context = self._pending = ""
        self.findings: dict[str, None] = {}
        self.blocked: str | None = None

    def push(self, said: str, final: bool = False) -> str:
        start = len(self._context)
        text = self._context + self._pending + said
        if len(text) == start or not self._checks:
            return ""
        found = [(span, check) for check in self._checks for span in _spans(check, text, start)]
        cut = len(text) if final else self._cut(text, start, [span for span, _ in found])
        for span, check in found:
            if span.end <= cut:
                self.findings[check.finding(span)] = None
                if check.action == "block":
                    self.blocked = check.name
                    return ""
        final_spans = merged(span for span, _ in found if span.end <= cut)
        shown = masked(text[:cut], final_spans)[start:] if final_spans else text[start:cut]
        self._context = text[max(0, cut - CONTEXT_CHARS) : cut]
        self._pending = _shrunk(text[cut:], cut, found)
        return shown

    def _cut(self, text: str, start: int, found: Sequence[Span]) -> int:
        """Where the final part of the text ends."""
        end = len(text)
        opened = min(check.detector.open_at(text, start) for check in self._checks)
        cut = max(opened, start, end - HELD_CHARS)
        for span in reversed(merged(found)):
            if span.begin < cut and (span.end > cut or span.end > end - _LOOK_AHEAD):
                cut = max(start, span.begin)
        return cut


def _spans(check: Check, text: str, start: int) -> Sequence[Span]:
    return check.detector.spans(text, start) if check.detector.suspects(text) else ()


def _shrunk(pending: str, cut: int, found: Sequence[tuple[Span, Check]]) -> str:
    """Of a match that grows without end, its ends are enough to see that it goes on."""
    if len(pending) > HELD_CHARS and any(span.begin == cut and span.end >= cut + len(pending) for span, _ in found):
        return pending[:_KEPT_CHARS] + pending[-_KEPT_CHARS:]
    return pending


def _texts(choice: Json) -> list[tuple[_Lane, Json, str]]:
    """The texts of one chunk of a choice: lane, and where the text stands."""
    found: list[tuple[_Lane, Json, str]] = []
    delta = choice.get("delta")
    holder = delta if isinstance(delta, dict) else choice
    for field in _FIELDS:
        if type(holder.get(field)) is str:
            found.append(((field, 0), holder, field))
    calls = holder.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            for kind, field in (("function", "arguments"), ("custom", "input")):
                inner = call.get(kind)
                if isinstance(inner, dict) and type(inner.get(field)) is str:
                    found.append(((kind, _number(call)), inner, field))
    return found


def _number(value: Json) -> int:
    index = value.get("index")
    return index if isinstance(index, int) else 0


def _says_something(choice: Json) -> bool:
    """Whether anything is left in the chunk beside the places of texts that are held."""
    if any(holder[key] for _, holder, key in _texts(choice)):
        return True
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return False
    if any(value is not None for key, value in delta.items() if key not in _FIELDS and key != "tool_calls"):
        return True
    calls = delta.get("tool_calls")
    return isinstance(calls, list) and any(isinstance(call, dict) and call.get("id") for call in calls)


def _said(index: int, lane: _Lane, text: str) -> Json:
    """A chunk's choice that says no more than this text."""
    field, number = lane
    if field == "text":
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}
    if field in ("function", "custom"):
        inner = {"arguments" if field == "function" else "input": text}
        delta: Json = {"tool_calls": [{"index": number, field: inner}]}
    else:
        delta = {field: text}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
