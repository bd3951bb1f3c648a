"""One exchange: a question's way through a chain and back, from its place in the queue to its row in the log.

It runs the chain in a worker thread, watches what passes, and accounts for it exactly once, however it ends. What the
events look like on the wire is `api`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmops.core.chain import (
    Cancelled,
    ChainContext,
    Citation,
    Delta,
    Done,
    Event,
    Message,
    PassageRef,
    Retrieval,
    Step,
)
from llmops.core.errors import LlmopsError, RateLimitedError, UnavailableError
from llmops.core.tracing import Span
from llmops.serving.bridge import Bridge
from llmops.serving.characters import CharacterJoiner
from llmops.serving.config import LimitsConfig
from llmops.serving.endpoint import Loaded

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status of an exchange whose reader went away (nginx' convention)."""


class AnswerTimeoutError(UnavailableError):
    """The answer took longer than the endpoint allows."""

    code = "answer_timeout"
    http_status = 504


class ChainFailedError(LlmopsError):
    """The chain broke in a way it should not: its own error, with the trace in the server's log."""

    code = "chain_failed"


@dataclass
class Outcome:
    """What came out of an exchange so far."""

    text: list[str] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    passages: tuple[PassageRef, ...] = ()
    generation: str | None = None
    index_seq: int | None = None
    done: Done | None = None
    error: Exception | None = None
    queue_s: float = 0.0
    ttfb_s: float | None = None
    latency_s: float = 0.0

    @property
    def answer(self) -> str:
        return "".join(self.text)

    @property
    def status_code(self) -> int:
        if self.error is None:
            return 200
        if isinstance(self.error, Cancelled):
            return CLIENT_GONE
        return self.error.http_status if isinstance(self.error, LlmopsError) else 500

    @property
    def error_class(self) -> str | None:
        return None if self.error is None else type(self.error).__name__

    def observe(self, event: Event, elapsed_s: float) -> None:
        """Take note of one event, `elapsed_s` after the exchange began."""
        if isinstance(event, Delta):
            if self.ttfb_s is None:
                self.ttfb_s = elapsed_s
            self.text.append(event.text)
        elif isinstance(event, Citation):
            self.citations.append(event)
        elif isinstance(event, Step):
            self.steps.append(event)
        else:
            self.generation, self.index_seq = event.generation, event.index_seq
            if isinstance(event, Retrieval):
                self.passages = event.passages
            else:
                self.done = event


@dataclass(frozen=True)
class Question:
    """What was asked, by whom, as the log will know it."""

    endpoint: str
    loaded: Loaded
    messages: list[Message]
    context: ChainContext
    body: dict[str, Any]
    client_request_id: str | None = None
    asked_at: float = field(default_factory=time.time)
    told: Span | None = field(default=None, compare=False)


class Places:
    """How many answers are made at once, how many may wait; the rest is refused."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._free = asyncio.Semaphore(limits.concurrent)
        self._waiting = 0
        self._running: dict[str, ChainContext] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def busy(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return self._waiting

    async def take(self) -> None:
        """Wait for a free place.

        Raises:
            RateLimitedError: too many wait already, or this wait took too long.
        """
        if self._free.locked() and self._waiting >= self._limits.waiting:
            raise _busy("too many requests wait for an answer already")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise _busy(f"no place became free within {self._limits.wait_s:g} s") from None
        finally:
            self._waiting -= 1

    def run(self, bridge: Bridge[Event], question: Question) -> None:
        """Start a chain in the place taken. Place and version are given back when it has really stopped."""
        loop = asyncio.get_running_loop()
        key = question.context.invocation_id

        def ended() -> None:
            question.loaded.release()
            loop.call_soon_threadsafe(self._give_back, key)

        try:
            bridge.start(ended)
        except RuntimeError as error:
            self._free.release()
            raise UnavailableError("no thread could be started for the answer", hint="try again in a moment") from error
        self._running[key] = question.context
        self._idle.clear()

    async def close(self, patience_s: float) -> None:
        """Cancel whatever still runs, and wait a moment for it to stop."""
        for context in list(self._running.values()):
            context.cancel.cancel()
        with contextlib.suppress(TimeoutError):  # the threads are daemons: a chain that does not stop dies with us
            async with asyncio.timeout(patience_s):
                await self._idle.wait()

    def _give_back(self, key: str) -> None:
        self._running.pop(key, None)
        self._free.release()
        if not self._running:
            self._idle.set()


def _busy(what: str) -> RateLimitedError:
    return RateLimitedError(what, code="too_busy", hint="try again in a moment")


class Exchange:
    """`next` gives the chain's events one by one; `finish` must follow, once, however the exchange ended."""

    def __init__(
        self, question: Question, places: Places, limits: LimitsConfig, account: Callable[[Exchange], None]
    ) -> None:
        self.question = question
        self.outcome = Outcome()
        self.limits = limits
        self._places = places
        self._account = account
        self._begun = time.perf_counter()
        self._deadline = asyncio.get_running_loop().time() + limits.answer_s
        self._bridge: Bridge[Event] | None = None
        self._finished = False
        self._ended_by: LlmopsError | None = None
        self._limit: asyncio.Timeout | None = None
        self._characters = CharacterJoiner()
        self.keep: Callable[[Exchange], asyncio.Task[None]] | None = None
        self._kept: asyncio.Task[None] | None = None

    async def next(self) -> Event | None:
        """The next event, or None after the last.

        Raises:
            LlmopsError: there was no place, the chain failed, or the time was up; what came before stays valid.
        """
        self._limit = limit = asyncio.timeout_at(self._deadline)
        try:
            async with limit:
                if self._ended_by is not None:
                    raise self._ended_by
                if self._bridge is None:
                    self._bridge = await self._start()
                event = await anext(self._bridge, None)
        except Exception as error:
            timely = self._out_of_time() if limit.expired() else None
            self.outcome.error = self._ended_by or timely or self._explain(error)
            raise self.outcome.error from error
        finally:
            self._limit = None
        if isinstance(event, Delta):
            event = Delta(self._characters.join(event.text))
        if event is not None:
            self.outcome.observe(event, time.perf_counter() - self._begun)
        return event

    @property
    def ready(self) -> bool:
        """Whether `next` would return at once."""
        return self._bridge is not None and self._bridge.ready

    def end(self, error: LlmopsError) -> None:
        """Stop it for a reason of the server's own, which its reader is told in place of what was to come."""
        self._ended_by = error
        self._deadline = asyncio.get_running_loop().time()
        self.cancel()
        if self._limit is not None:
            self._limit.reschedule(self._deadline)

    def cancel(self) -> None:
        """Stop the chain and its upstream."""
        self.question.context.cancel.cancel()

    def finish(self) -> None:
        """Stop what still runs and account for the exchange; one that its reader left is logged as cancelled."""
        if self._finished:
            return
        self._finished = True
        if self.outcome.done is None:
            self.cancel()
        if self._bridge is None:
            self.question.loaded.release()
        if self.outcome.done is None and self.outcome.error is None:
            self.outcome.error = Cancelled()
        self.outcome.latency_s = time.perf_counter() - self._begun
        self._account(self)
        if self.keep is not None:
            self._kept = self.keep(self)

    async def kept(self) -> None:
        """Wait until the finished exchange is in its reader's history, where they have one."""
        if self._kept is not None:
            await asyncio.shield(self._kept)

    async def _start(self) -> Bridge[Event]:
        await self._places.take()
        self.outcome.queue_s = time.perf_counter() - self._begun
        chain, question = self.question.loaded.chain, self.question
        bridge: Bridge[Event] = Bridge(
            lambda: chain.stream(question.messages, question.context), question.context.cancel
        )
        self._places.run(bridge, question)
        return bridge

    def _out_of_time(self) -> AnswerTimeoutError:
        return AnswerTimeoutError(f"the answer took longer than {self.limits.answer_s:g} s")

    def _explain(self, error: Exception) -> LlmopsError:
        request_id = self.question.context.request_id
        if isinstance(error, LlmopsError):
            log.warning("request %s: %s", request_id, error.what)
            return error
        if isinstance(error, Cancelled):
            return UnavailableError("the server is stopping", code="stopping", hint="ask again in a moment")
        log.error("request %s failed inside the chain", request_id, exc_info=error)
        return ChainFailedError("the answer failed inside the chain", hint=f"the server's log has request {request_id}")
