"""Whom to ask, with what cover, and when again: the attempts of one client call, by plain callbacks.

On the normal path - enough allowance at hand, one target, the caller's own format - nothing here waits, so there is no
task and no future. A retry waits by a timer; asking the shared store is a task. What an attempt brings is heard by
`exchange`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from llmops.core.errors import LlmopsError
from llmops.gateway.calls import Fault, Refused, UpstreamRequest, Usage
from llmops.gateway.engine import faults
from llmops.gateway.engine.answering import Answering
from llmops.gateway.engine.call import NO_USAGE, clock
from llmops.gateway.engine.candidates import Search
from llmops.gateway.engine.flow import Flow, Keep
from llmops.gateway.engine.plan import Target
from llmops.gateway.engine.record import Attempt
from llmops.gateway.spans import Trace

BYTES_PER_TOKEN: Final = 4
_MANY_STREAMS: Final = 256
"""So many requests at once, and what is kept of a long stream for its row is compressed."""
_UNTRANSLATED: Final = frozenset(("embeddings", "rerank"))


class Asking(Answering):
    """One client call with its attempts, one after the other."""

    __slots__ = ("_head", "_received", "_tries", "_upstream", "asked_at", "native")

    _head: int
    """The status that the upstream answered, or 0."""
    _received: int
    """Bytes of a whole reply so far."""

    def advance(self, fault: Fault | None = None) -> None:
        """Go to the next target; with none left, tell the caller why the last one failed."""
        while True:
            target = self.route.only
            if target is None or self.search is not None or target.breaker.until:
                now = clock()
                found = self._searched().next(now)
                if found is None:
                    self._give_up(fault, now)
                    return
                route, target = found
                if route is not self.route:
                    self.own().guest = self.gate.route_meters(route)
                elif self.seldom.guest:
                    self.own().guest = ()
            self.target = target
            self._tries = 0
            try:
                self._upstream: UpstreamRequest = self._built(target)
            except Fault as unable:
                self._spare(target)
                fault = fault or unable
                continue
            break
        self._cover_and_ask()

    def _searched(self) -> Search:
        """What may still be tried. Most requests never need it."""
        if self.search is None:
            self.search = Search(self.route, self.operation, self.size)
        return self.search

    def _spare(self, target: Target) -> Search:
        """Ask the target no more."""
        search = self._searched()
        search.tried = (*search.tried, target)
        return search

    def _built(self, target: Target) -> UpstreamRequest:
        operation = self.operation
        read = self.streaming and self.route.guards.checks_output  # such a stream travels as chat chunks
        self.native = operation in _UNTRANSLATED or (operation in target.native and not read)
        if self.native:
            return target.provider.build(operation, self.body, target.config)
        chat = self.own().chat = self.dialect.to_chat(self.body)
        return target.provider.build("chat", chat, target.config)

    def _traced(self, trace: Trace, target: Target) -> UpstreamRequest:
        """One attempt is one step of the trace; a provider hears of it where its configuration says so."""
        trace.tries += 1
        trace.asked_s = self.asked_at - self.started
        header = trace.header if self.plan.sample is None else trace.onward(self.invocation_id)
        request = self._upstream
        if header is None or not target.traced:
            return request
        return replace(request, headers=(*request.headers, (b"traceparent", header)))

    def _cover_and_ask(self) -> None:
        target = self.target
        assert target is not None
        try:
            most_input, most_output = self.size.worst(target.config, self._upstream.output_tokens)
            worst = target.worst(most_input, most_output, self.size)
            tokens = most_input + most_output
            guest = self.seldom.guest
            if (not guest or self.tab.knows_guest(guest, worst, tokens)) and self.tab.try_cover(worst, tokens):
                self._ask(target)
            else:
                self.gate.spawn(self._cover_later(target, worst, tokens), self.crash)
        except Refused as refused:
            self.over(refused)
        except Fault as fault:
            self.refuse(fault)

    async def _cover_later(self, target: Target, worst: int, tokens: int) -> None:
        """Ask the shared store. Of a caller who left meanwhile the tab gives it back."""
        began = clock()
        try:
            await self.tab.cover(worst, tokens)
            if not self.done and not self.tab.knows_guest(self.seldom.guest, worst, tokens):
                await self.tab.cover_guest(self.seldom.guest, worst, tokens)
        except Refused as refused:
            if not self.done:
                self.over(refused)
            return
        except LlmopsError as error:
            self.refuse(faults.from_error(error))
            return
        self.own().waited_s += clock() - began
        if not self.done:  # else what was reserved has gone back already
            self._ask(target)

    # --- one attempt -------------------------------------------------------------------------------------------------

    def _ask(self, target: Target) -> None:
        self._tries += 1
        self._received = self._head = 0
        if self.attempts is not None:
            self.cost = 0
        if self.streaming:
            self.flow = self._open_flow(target)
        if target.breaker.until:
            target.breaker.begin()
        target.under_way += 1
        self.asked_at = clock()
        self.asked = True
        route, trace = self.route, self.seldom.trace
        upstream = self._upstream if trace is None else self._traced(trace, target)
        self._call = target.pool.call(upstream, self, first_byte_s=route.first_byte_s, idle_s=route.idle_s)  # type: ignore[arg-type]

    def _open_flow(self, target: Target) -> Flow:
        keep: Keep = "nothing"
        if self.route.log_bodies or self.recall is not None:
            keep = "plain" if self.gate.metrics.under_way < _MANY_STREAMS else "folded"
        if self.native:
            return Flow(target.provider.relay(self.operation, self.body), keep=keep)
        chat = self.seldom.chat
        assert chat is not None
        checks = self.route.guards.open_stream() if self.route.guards.checks_output else None
        return Flow(None, target.provider.reader(chat), self.dialect.writer(self.body), checks, keep=keep)

    # --- after a failure ---------------------------------------------------------------------------------------------

    def _again(self, fault: Fault, target: Target) -> bool:
        """Ask the same target again after a pause, where that is worth while."""
        retry = self.route.config.retry
        now = clock()
        if self._tries >= retry.attempts or not faults.again_here(fault) or not target.breaker.admits(now):
            return False
        wait = self.gate.jitter() * retry.backoff_s * 2.0 ** (self._tries - 1)
        asked = fault.retry_after_s
        if asked is not None:
            if asked > retry.max_wait_s or (asked > wait and self._searched().others(target, now)):
                return False
            wait = max(wait, asked)
        self.own().timer = self.gate.loop.call_later(wait, self._ask_again)
        return True

    def _ask_again(self) -> None:
        self.own().timer = None
        if not self.done:
            self._cover_and_ask()

    def _give_up(self, fault: Fault | None, now: float) -> None:
        """No target is left: the answer kept from a cheaper one, else the reason."""
        kept = self.seldom.kept
        if kept is not None:
            reply, target = kept
            noted = next(attempt for attempt in self.attempts or () if attempt.target is target)
            self.cost, noted.nano_usd, noted.usage = noted.nano_usd, 0, None
            self._send_whole(reply.body, reply.model, reply.usage or NO_USAGE, target)
            return
        if fault is None:
            wait = self._searched().reopens_in_s(now)
            if wait is None:
                fault = faults.refusal(400, "no_target", "no target of the route can take this request")
            else:
                fault = Fault("overloaded", "every target of the route is failing", 503, wait, "targets_failing")
        self.refuse(faults.told(fault))

    def _spent(self, fault: Fault, sent: bool, flow: Flow | None) -> Usage | None:
        """What a failed attempt used: by its own count, else by what arrived; None where it cost nothing."""
        if flow is not None and (flow.state.usage is not None or flow.state.received):
            return flow.state.usage or self.size.received(flow.state.received)
        if not faults.may_cost(fault, sent):
            return None
        return self.size.received(self._received // BYTES_PER_TOKEN if self._head == 200 else 0)

    def drop_call(self) -> None:
        """Stop what is under way upstream."""
        if self._call is not None:
            self._call.cancel()

    def forsake(self) -> None:
        if self._call is not None and self.target is not None:
            self._call.cancel()
            self._call = None
            self.target.under_way -= 1
            self.target.breaker.abandon()

    def _book(self, target: Target, usage: Usage) -> None:
        self.cost = target.cost(usage)
        self.tab.book(self.cost, usage, self.seldom.guest)

    def _note(self, target: Target, outcome: str, status: int, usage: Usage | None) -> None:
        """Keep an attempt that did not answer the caller; its cost goes to its own row."""
        began_s, ended_s = self.asked_at - self.started, clock() - self.started
        attempt = Attempt(target, outcome, status, self.cost, usage, began_s, ended_s)
        self.cost = 0
        if self.attempts is None:
            self.attempts = []
        self.attempts.append(attempt)
