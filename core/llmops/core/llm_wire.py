"""OpenAI's chat-completions wire format: what a request says, what a streamed reply means, which error a status is.

Source: https://platform.openai.com/docs/api-reference/chat-streaming. Knows bytes and JSON; opens no connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from llmops.core.chain import Message, Usage
from llmops.core.errors import LlmopsError, RateLimitedError, UpstreamError

MAX_LINE_BYTES = 1_000_000
"""A line longer than this is no reply of a chat server; reading on would only fill the memory."""
MAX_WHOLE_BYTES = 4_000_000
_MAX_DETAIL_CHARS = 300

REQUEST_HEADER = "x-request-id"
PARENT_HEADER = "x-llmops-parent-invocation"
"""The ids of the request that a call belongs to, and of the hop that makes it."""


class CutError(Exception):
    """The connection broke while a reply was being read; the message goes on from "the LLM server"."""


@dataclass(frozen=True)
class Sampling:
    """How much to write, and how freely."""

    max_tokens: int = 1024
    temperature: float = 0.0


@dataclass(frozen=True)
class LlmText:
    """The next piece of the reply."""

    text: str


@dataclass(frozen=True)
class LlmEnd:
    """The reply is whole. `usage` is None where the server did not count."""

    finish_reason: str
    usage: Usage | None


def request_body(model: str, messages: Sequence[Message], sampling: Sampling) -> bytes:
    """The streaming request; asks for the token count with the last chunk."""
    return orjson.dumps(
        {
            "model": model,
            "messages": [{"role": message["role"], "content": message["content"]} for message in messages],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )


def read_events(pieces: Iterable[bytes], where: str) -> Iterator[LlmText | LlmEnd]:
    """Turn the bytes of a server-sent event stream into text and one end.

    Raises:
        UpstreamError: an error object, text that is no JSON, or an end without `finish_reason` and `[DONE]`.
    """
    state = _Reply(where)
    try:
        for line in _lines(pieces, where):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                state.done = True
                break
            if text := state.take(data):
                yield LlmText(text)
    except CutError as cut:
        if not state.finished:  # a cut after the finish reason costs at most the token count
            raise UpstreamError(f"the LLM server {cut}", where=where, hint="ask again") from cut
    yield state.end()


def read_whole(pieces: Iterable[bytes], where: str) -> Iterator[LlmText | LlmEnd]:
    """Read the reply of a server that ignored `stream` and sent one JSON object.

    Raises:
        UpstreamError: it is cut, too long, an error object, or no JSON.
    """
    body = b""
    try:
        for piece in pieces:
            body += piece
            if len(body) > MAX_WHOLE_BYTES:
                raise UpstreamError(f"the LLM server sent more than {MAX_WHOLE_BYTES} bytes at once", where=where)
    except CutError as cut:
        raise UpstreamError(f"the LLM server {cut}", where=where, hint="ask again") from cut
    state = _Reply(where)
    if text := state.take(body):
        yield LlmText(text)
    yield state.end()


class _Reply:
    """What the chunks read so far say about the end of the reply."""

    def __init__(self, where: str) -> None:
        self._where = where
        self.done = False
        self._finish: str | None = None
        self._usage: Usage | None = None

    @property
    def finished(self) -> bool:
        return self.done or self._finish is not None

    def take(self, data: bytes) -> str:
        """Note one chunk; gives its text."""
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise UpstreamError("the LLM server sent a piece that is not JSON", where=self._where) from None
        if not isinstance(chunk, dict):
            raise UpstreamError("the LLM server sent a piece that is not an object", where=self._where)
        if chunk.get("error"):
            raise UpstreamError(f"the LLM server reported: {_detail(chunk)}", where=self._where)
        self._usage = _usage(chunk.get("usage")) or self._usage
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return ""
        if isinstance(reason := choices[0].get("finish_reason"), str):
            self._finish = reason
        part = choices[0].get("delta") or choices[0].get("message") or {}
        text = part.get("content") if isinstance(part, dict) else None
        return text if isinstance(text, str) else ""

    def end(self) -> LlmEnd:
        if not self.finished:
            raise UpstreamError(
                "the LLM server stopped in the middle of its reply", where=self._where, hint="ask again"
            )
        return LlmEnd(self._finish or "stop", self._usage)


def _lines(pieces: Iterable[bytes], where: str) -> Iterator[bytes]:
    """Whole lines of the stream, CR and LF both ending one; the last counts also without an end."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).replace(b"\r", b"\n").split(b"\n")
        yield from lines
        if len(rest) > MAX_LINE_BYTES:
            raise UpstreamError(f"the LLM server sent a line longer than {MAX_LINE_BYTES} bytes", where=where)
    if rest:
        yield rest


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    counts = (value.get("prompt_tokens"), value.get("completion_tokens"))
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    return Usage(input_tokens=counts[0] or 0, output_tokens=counts[1] or 0)


def status_error(status: int, headers: Mapping[str, str], body: bytes, where: str) -> LlmopsError:
    """The error that a non-200 reply means to our caller."""
    try:
        detail = _detail(orjson.loads(body))
    except orjson.JSONDecodeError:
        detail = ""
    said = f": {detail}" if detail else ""
    if status == 429:
        wait = retry_after_s(headers)
        hint = f"try again in {wait:.0f} s" if wait is not None else "try again later"
        return RateLimitedError(f"the LLM server limits requests{said}", where=where, hint=hint)
    hints = {
        401: "check the key that `api_key` refers to",
        403: "check the key that `api_key` refers to",
        404: "check the base URL and the name of the model",
    }
    return UpstreamError(f"the LLM server answered {status}{said}", where=where, hint=hints.get(status))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait (RFC 9110, 10.2.3; its date form is taken as absent)."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None


def _detail(body: Any) -> str:
    """The server's own words, one bounded printable line."""
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message", "") if isinstance(error, dict) else error
    line = " ".join(str(message).split())
    return "".join(char for char in line if char.isprintable())[:_MAX_DETAIL_CHARS]
