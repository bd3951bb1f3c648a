"""The one client through which every part talks to a language model: OpenAI's format, streamed, cancellable.

Knows connections, waiting and trying again; what travels is `llm_wire`'s. It picks no model, counts no cost, caches
nothing: those belong to the gateway route that its URL normally points to.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpcore
import httpx

from llmops.core.addresses import is_loopback
from llmops.core.chain import ChainContext, Message, Usage
from llmops.core.errors import ConfigError, LlmopsError, UpstreamError
from llmops.core.llm_span import CallSpan
from llmops.core.llm_wire import (
    PARENT_HEADER,
    REQUEST_HEADER,
    CutError,
    LlmEnd,
    LlmText,
    Sampling,
    read_events,
    read_whole,
    request_body,
    retry_after_s,
    status_error,
)
from llmops.core.secret import check_reference, resolve_secret
from llmops.core.tracing import TRACEPARENT_HEADER

__all__ = ["Completion", "LlmClient", "LlmEnd", "LlmEndpoint", "LlmText", "Sampling"]

_RETRIED = frozenset({429, 500, 502, 503, 504})
_MAX_ERROR_BYTES = 64_000
_BACKOFF_S = 0.25


@dataclass(frozen=True)
class LlmEndpoint:
    """Where a model answers, and how patient to be with it.

    Args:
        url: base URL, such as `http://localhost:11434/v1`.
        api_key: a reference, `env:NAME` or `file:PATH`; resolved at each call.
        timeout_s: longest silence, before the first byte and between two.
        total_s: longest reply; a server that drips for ever ends here.
        attempts: how often to ask before the first byte; afterwards nothing is repeated.
        max_wait_s: longest pause between two attempts; a server that asks for more is not asked again.
    """

    url: str
    model: str
    api_key: str | None = None
    timeout_s: float = 60.0
    total_s: float = 600.0
    attempts: int = 3
    max_wait_s: float = 20.0

    def __post_init__(self) -> None:
        parsed = httpx.URL(self.url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError("the LLM's URL must start with http:// or https://", where=_shown(parsed))
        if parsed.userinfo:
            raise ConfigError(
                "the LLM's URL must not hold a password", where=_shown(parsed), hint="use api_key: env:NAME"
            )
        if self.api_key is not None:
            check_reference(self.api_key)

    @property
    def completions_url(self) -> httpx.URL:
        url = httpx.URL(self.url)
        return url.copy_with(path=url.path.rstrip("/") + "/chat/completions")

    @property
    def shown(self) -> str:
        """The URL as an error may show it: no user, no query."""
        return _shown(self.completions_url)


@dataclass(frozen=True)
class Completion:
    """A whole reply."""

    text: str
    finish_reason: str
    usage: Usage | None


class LlmClient:
    """Calls one endpoint from any number of threads.

    Each call opens its own connection: a cancel can then shut exactly that socket from another thread, also while it
    waits for the first byte, and no call ever meets a connection that the server has silently dropped.

    Args:
        private: what is sent is for one requester's eyes: a gateway is told to keep no answer to it in a cache.
    """

    def __init__(self, endpoint: LlmEndpoint, *, private: bool = False) -> None:
        self.endpoint = endpoint
        self._http = httpx.Client(
            headers={"Cache-Control": "no-store"} if private else None,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=httpx.Timeout(endpoint.timeout_s, connect=min(10.0, endpoint.timeout_s), pool=None),
            follow_redirects=False,  # a redirect would carry the key to another host
            # A proxy set for the outer world must not receive what is meant for this machine.
            trust_env=not is_loopback(httpx.URL(endpoint.url).host),
        )

    def close(self) -> None:
        self._http.close()

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, context: ChainContext | None = None
    ) -> Iterator[LlmText | LlmEnd]:
        """The reply piece by piece; exactly one `LlmEnd` at the end. Closing the iterator stops the server.

        The exchange's ids travel in headers, so that a gateway's row of the call joins the rows of its request.

        Raises:
            UpstreamError: it failed or stopped; the pieces given before stay valid.
            RateLimitedError: it still says 429 after the last attempt, or asks for a longer wait than we grant.
            Cancelled: the context's token was cancelled; the connection is shut.
            ConfigError: the key's reference leads nowhere.
        """
        context = context or ChainContext()
        told = CallSpan(self.endpoint, messages, sampling, context)
        try:
            for event in self._events(messages, sampling, replace(context, traceparent=told.traceparent)):
                told.hear(event)
                yield event
        except BaseException as error:
            told.span.fail(error)
            raise
        finally:
            told.end()

    def _events(
        self, messages: Sequence[Message], sampling: Sampling, context: ChainContext
    ) -> Iterator[LlmText | LlmEnd]:
        call = _Call(self._http, self.endpoint, context)
        body = request_body(self.endpoint.model, messages, sampling)
        try:
            response = call.open(body)
            if response.headers.get("content-type", "").startswith("application/json"):
                yield from read_whole(call.pieces(), self.endpoint.shown)
            else:
                yield from read_events(call.pieces(), self.endpoint.shown)
        except LlmopsError as error:
            call.cancel.check()  # a shut socket looks like a broken server
            raise call.without_secret(error) from error.__cause__
        finally:
            call.close()

    def complete(
        self, messages: Sequence[Message], sampling: Sampling, context: ChainContext | None = None
    ) -> Completion:
        """The whole reply at once; raises what `stream` raises."""
        texts: list[str] = []
        end = LlmEnd("stop", None)
        for event in self.stream(messages, sampling, context):
            if isinstance(event, LlmText):
                texts.append(event.text)
            else:
                end = event
        return Completion("".join(texts), end.finish_reason, end.usage)


class _Call:
    """One request on its way: its socket, its deadline, its reader's token."""

    def __init__(self, http: httpx.Client, endpoint: LlmEndpoint, context: ChainContext) -> None:
        self.cancel = context.cancel
        self._context = context
        self._http = http
        self._endpoint = endpoint
        self._deadline = time.monotonic() + endpoint.total_s
        self._lock = threading.Lock()
        self._socket: Any = None
        self._response: httpx.Response | None = None
        self._woken = threading.Event()
        self._key = resolve_secret(endpoint.api_key) if endpoint.api_key else None
        self.cancel.on_cancel(self._shut)

    def open(self, body: bytes) -> httpx.Response:
        """Ask until a 200 comes, the attempts are used up, or the reader is gone."""
        for attempt in itertools.count(1):
            self.cancel.check()
            try:
                return self._attempt(body)
            except _TryAgain as again:
                pause = _pause_s(attempt, again.asked_s)
                if attempt >= self._endpoint.attempts or pause > self._endpoint.max_wait_s:
                    raise again.error from None
                self._woken.wait(pause)
        raise AssertionError("unreachable")

    def _attempt(self, body: bytes) -> httpx.Response:
        where = self._endpoint.shown
        try:
            response = self._response = self._http.send(self._request(body), stream=True)
        except httpx.ConnectTimeout:
            raise _TryAgain(UpstreamError("the LLM server cannot be reached in time", where=where)) from None
        except httpx.TimeoutException:
            silence = f"the LLM server sent nothing for {self._endpoint.timeout_s:g} s"
            raise UpstreamError(silence, where=where, hint="raise timeout_s, or ask a faster model") from None
        except httpx.TransportError:
            self.cancel.check()
            hint = "check that it runs and that the URL is right"
            raise _TryAgain(UpstreamError("the LLM server cannot be reached", where=where, hint=hint)) from None
        if response.status_code == 200:
            return response
        error = status_error(response.status_code, response.headers, self._error_body(), where)
        self._drop_response()
        if response.status_code in _RETRIED:
            raise _TryAgain(error, retry_after_s(response.headers))
        raise error

    def _request(self, body: bytes) -> httpx.Request:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}
        headers |= {REQUEST_HEADER: self._context.request_id, PARENT_HEADER: self._context.invocation_id}
        if self._context.traceparent is not None:
            headers[TRACEPARENT_HEADER] = self._context.traceparent
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        url, extensions = self._endpoint.completions_url, {"trace": self._note_socket}
        request = self._http.build_request("POST", url, content=body, headers=headers)
        request.extensions = {**request.extensions, **extensions}
        return request

    def _error_body(self) -> bytes:
        """What can be had of an error's body, bounded; a status without its words is still that status."""
        body = b""
        with contextlib.suppress(CutError):
            for piece in self.pieces():
                body += piece
                if len(body) > _MAX_ERROR_BYTES:
                    break
        return body

    def pieces(self) -> Iterator[bytes]:
        """The reply's bytes as they come.

        Raises:
            CutError: the connection broke, fell silent, or the whole takes too long.
        """
        assert self._response is not None
        try:
            for piece in self._response.iter_bytes():
                if time.monotonic() > self._deadline:
                    raise CutError(f"did not finish within {self._endpoint.total_s:g} s")
                yield piece
                self.cancel.check()
        except httpx.TimeoutException:
            raise CutError(f"fell silent for {self._endpoint.timeout_s:g} s in the middle of its reply") from None
        except (httpx.RequestError, httpx.StreamError):
            raise CutError("broke the connection in the middle of its reply") from None

    def without_secret(self, error: LlmopsError) -> LlmopsError:
        """The same error; where the server echoed the key, its words are dropped."""
        if self._key and self._key in f"{error.what} {error.hint}":
            return type(error)("the LLM server refused, and repeated the key in its reason", where=error.where)
        return error

    def close(self) -> None:
        """Let go of the connection; a cancel that comes later finds nothing to shut."""
        with self._lock:
            self._socket = None
        self._drop_response()

    def _drop_response(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def _note_socket(self, event: str, info: dict[str, Any]) -> None:
        """Remember the socket that httpcore has just opened (the TLS one replaces the plain one)."""
        stream = info.get("return_value")
        opened = stream.get_extra_info("socket") if isinstance(stream, httpcore.NetworkStream) else None
        if isinstance(opened, socket.socket):
            with self._lock:
                self._socket = opened
            if self.cancel.cancelled:
                self._shut()

    def _shut(self) -> None:
        """End whatever waits on the socket, from any thread."""
        self._woken.set()
        with self._lock:
            if self._socket is not None:
                # SSLSocket.shutdown would drop its TLS state under the reading thread's feet
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _TryAgain(Exception):
    """This attempt failed before the first byte, in a way that may pass."""

    def __init__(self, error: LlmopsError, asked_s: float | None = None) -> None:
        super().__init__(error.what)
        self.error = error
        self.asked_s = asked_s


def _pause_s(attempt: int, asked_s: float | None) -> float:
    """How long to wait before the next attempt.

    Exponential backoff with full jitter, on top of what the server asked for.
    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    jitter = random.uniform(0, _BACKOFF_S * 2**attempt)  # noqa: S311 - spreads load, guards nothing
    return jitter if asked_s is None else asked_s + min(jitter, _BACKOFF_S)


def _shown(url: httpx.URL) -> str:
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))
