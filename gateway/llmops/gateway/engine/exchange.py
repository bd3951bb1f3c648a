"""One request on its way upstream and back: covered, sent, listened to, asked again, answered, by plain callbacks.

The exchange listens to one upstream call at a time. On the normal path - enough allowance at hand, no cache, the
caller's own format - nothing here waits, so there is no task and no future. A retry waits by a timer; asking the shared
store is a task.

What the caller sees of a failure: before the first byte an error reply in its own format, after retries and fallbacks;
after the first byte an error event in its own format, then the end of the stream.
"""

from __future__ import annotations

import orjson

from llmops.core.errors import LlmopsError
from llmops.gateway.assemble import assembled
from llmops.gateway.cache import replayed
from llmops.gateway.calls import Fault, Headers, Refused, Reply, UpstreamCall, UpstreamRequest, Usage
from llmops.gateway.engine import faults
from llmops.gateway.engine.call import JSON_HEADER, NO_USAGE, ClientCall, clock
from llmops.gateway.engine.candidates import Search, learn_latency
from llmops.gateway.engine.flow import Flow, Keep, state_fault
from llmops.gateway.engine.plan import Target
from llmops.gateway.engine.recall import Recall
from llmops.gateway.engine.record import Attempt, usd
from llmops.gateway.guard import Verdict

_STREAM_HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))
_MISS = (b"x-llmops-cache", b"miss")
_MOST_REPLY_BYTES = 64 * 1024 * 1024
_BYTES_PER_TOKEN = 4
_MANY_STREAMS = 256
"""So many requests at once, and what is kept of a long stream for its row is compressed."""
_UNTRANSLATED = frozenset(("embeddings", "rerank"))


class Exchange(ClientCall):
    """One client call with its attempts. A `Listener` to the upstream call under way."""

    __slots__ = (
        "_call", "_head", "_headers", "_parts", "_received", "_serial", "_tries", "_upstream", "asked_at", "native",
    )  # fmt: skip

    def begin(self) -> None:
        """From the door to the first attempt."""
        self._call: UpstreamCall | None = None
        self._serial = 0
        try:
            self.admit()
        except Fault as fault:
            self.refuse(fault)
            return
        self.responder.on_gone = self._gone
        timers = self.gate.timers
        self.deadline = timers.now + self.route.total_s
        timers.watch(self)
        if self.unresolved is not None:
            self.gate.spawn(self._resolve(self.unresolved), self.crash)
        elif self.route.cache is None or not self._recalled():
            self.advance()

    async def _resolve(self, verdict: Verdict) -> None:
        """Look up where the request's pictures point, before anybody fetches them."""
        verdict = await self.route.guards.resolve(verdict)
        self.findings = verdict.findings
        if self.done:
            return
        if verdict.action == "blocked":
            self.logged_request = None
            self.count_guarded("blocked")
            self.refuse(verdict.fault())
        elif not self._recalled():
            self.advance()

    def _recalled(self) -> bool:
        """Whether the cache takes the request over."""
        cache = self.route.cache
        if cache is None or self.arm is not None:  # an arm's answers belong to it alone
            return False
        lookup = cache.lookup(self.operation, self.body, self.policy, self.request.headers.get(b"cache-control"))
        if lookup is None:
            return False
        self.recall = Recall(cache, lookup, self)
        return self.recall.begin()

    # --- targets and cover -------------------------------------------------------------------------------------------

    def advance(self, fault: Fault | None = None) -> None:
        """Go to the next target; with none left, tell the caller why the last one failed."""
        while True:
            now = clock()
            target = self.route.only
            if target is None or self.search is not None or not target.breaker.admits(now):
                found = self._searched().next(now)
                if found is None:
                    self._give_up(fault, now)
                    return
                route, target = found
                self.guest = () if route is self.route else self.gate.route_meters(route)
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
        self.native = operation in _UNTRANSLATED or (operation in target.native and not self._checked_stream())
        if self.native:
            return target.provider.build(operation, self.body, target.config)
        self.chat = self.dialect.to_chat(self.body)
        return target.provider.build("chat", self.chat, target.config)

    def _checked_stream(self) -> bool:
        """A stream that a guard reads travels as chat chunks, whatever its format."""
        return self.streaming and self.route.guards.checks_output

    def _cover_and_ask(self) -> None:
        target = self.target
        assert target is not None
        try:
            most_input, most_output = self.size.worst(target.config)
            worst = target.worst(most_input, most_output, self.size)
            tokens = most_input + most_output
            if (not self.guest or self.tab.knows_guest(self.guest)) and self.tab.try_cover(worst, tokens):
                self._ask(target)
            else:
                self.gate.spawn(self._cover_later(target, worst, tokens), self.crash)
        except Refused as refused:
            self.over(refused)
        except Fault as fault:
            self.refuse(fault)

    async def _cover_later(self, target: Target, worst: int, tokens: int) -> None:
        """Ask the shared store. A caller who leaves meanwhile is waited for: what was reserved must be given back."""
        began = clock()
        try:
            await self.tab.cover(worst, tokens)
            if not self.tab.knows_guest(self.guest):
                await self.tab.cover_guest(self.guest, worst, tokens)
        except Refused as refused:
            if not self.done:
                self.over(refused)
            return
        except LlmopsError as error:
            self.refuse(faults.from_error(error))
            return
        self.waited_s += clock() - began
        if self.done:
            self.tab.settle(asked=self.asked)
        else:
            self._ask(target)

    # --- one attempt -------------------------------------------------------------------------------------------------

    def _ask(self, target: Target) -> None:
        self._serial = serial = self._serial + 1
        self._tries += 1
        self._received = self._head = 0
        self._call = None
        if self.attempts is not None:
            self.cost = 0
        if self.streaming:
            self.flow = self._open_flow(target)
        target.breaker.begin()
        target.under_way += 1
        self.asked_at = clock()
        self.asked = True
        route = self.route
        call = target.pool.call(self._upstream, self, first_byte_s=route.first_byte_s, idle_s=route.idle_s)
        if serial == self._serial and not self.done:
            self._call = call

    def _open_flow(self, target: Target) -> Flow:
        keep: Keep = "nothing"
        if self.route.log_bodies or self.recall is not None:
            keep = "plain" if self.gate.metrics.under_way < _MANY_STREAMS else "folded"
        if self.native:
            return Flow(target.provider.relay(self.operation, self.body), keep=keep)
        assert self.chat is not None
        checks = self.route.guards.open_stream() if self.route.guards.checks_output else None
        return Flow(None, target.provider.reader(self.chat), self.dialect.writer(self.body), checks, keep=keep)

    def on_reply(self, status: int, headers: Headers, body: bytes) -> None:
        if self.flow is None:
            self._head, self._received = status, len(body)
            self.first_at = clock()
            self._replied(status, headers, body)
            return
        call = self._call
        self.on_head(status, headers)
        self.on_data(body)
        if self._call is call:  # nothing went wrong within
            self.on_end()

    def on_head(self, status: int, headers: Headers) -> None:
        self._head = status
        self._headers = headers
        self._parts: list[bytes] = []
        if not self.begun:
            self.first_at = clock()
        if self.flow is not None and (status != 200 or not _is_stream(headers)):
            self.flow = None  # an error, or a server that does not stream: its reply is read whole

    def on_data(self, data: bytes) -> None:
        if self.flow is not None:
            self._relay(self.flow, data)
            return
        self._parts.append(data)
        self._received += len(data)
        if self._received > _MOST_REPLY_BYTES:
            self.drop_call()
            self._failed(Fault("invalid", f"the provider's reply has more than {_MOST_REPLY_BYTES} bytes"))

    def on_end(self) -> None:
        if self.flow is not None:
            self._stream_ended(self.flow)
            return
        self._replied(self._head, self._headers, b"".join(self._parts))

    def on_fault(self, fault: Fault) -> None:
        if not self.done:
            self._failed(fault)

    # --- whole replies -----------------------------------------------------------------------------------------------

    def _replied(self, status: int, headers: Headers, body: bytes) -> None:
        """The target said this: an error, or an answer to be booked."""
        target = self.target
        assert target is not None
        if status != 200:
            self._failed(target.provider.fault(status, headers, body))
            return
        try:
            reply = target.provider.reply(self.operation if self.native else "chat", body)
            said = reply.body if self.native else self._said(reply.body)
        except Fault as fault:
            self._failed(fault)
            return
        target.under_way -= 1
        target.breaker.success()
        learn_latency(target, self.first_at - self.asked_at, self.first_at)
        self._call = None
        usage = reply.usage
        if usage is None:
            usage = self.size.received(len(body) // _BYTES_PER_TOKEN)
        self.cost = nano = target.cost(usage)
        self.tab.book(nano, usage)
        self._answered(said, reply.model, usage, target)

    def _said(self, body: bytes) -> bytes:
        """The answer in the caller's format."""
        return orjson.dumps(self.dialect.from_chat(orjson.loads(body), self.body))

    def _answered(self, body: bytes, model: str | None, usage: Usage, target: Target) -> None:
        """A whole good answer, in the caller's format: good enough, and fit to be seen?"""
        route = self.route
        if route.escalation is not None and self._escalates(body, model, usage, target):
            return
        if route.guards.checks_output:
            verdict = route.guards.check_output(self.operation, orjson.loads(body))
            self.findings += verdict.findings
            if verdict.action == "blocked":
                self.withhold(verdict.fault(), model, usage, target)
                return
            if verdict.action == "masked":
                self.count_guarded("masked")
                body = orjson.dumps(verdict.body)
        self._send_whole(body, model, usage, target)

    def _escalates(self, body: bytes, model: str | None, usage: Usage, target: Target) -> bool:
        """Ask a better tier where the answer is not good enough; this one is kept for the case that nobody answers."""
        escalation = self.route.escalation
        assert escalation is not None
        if target.tier >= escalation.to_tier or self.kept is not None or self.streaming:
            return False
        reason = escalation.reason(self.body, orjson.loads(body))
        if reason is None:
            return False
        self.kept = (Reply(body, usage, model), target)
        self._note(target, f"escalated:{reason}", 200, usage)
        self.gate.metrics.count("llmops_gateway_escalations_total", route=self.route.name, reason=reason)
        self._spare(target).tier = escalation.to_tier
        self.advance()
        return True

    def _send_whole(self, body: bytes, model: str | None, usage: Usage, target: Target) -> None:
        tab, responder = self.tab, self.responder
        tab.settle(True)
        self.done = True
        try:
            events = replayed(self.operation, orjson.loads(body), self.body) if self.streaming else None
            if events is None:
                own = [
                    (b"x-request-id", self.request_id.encode()),
                    (b"x-llmops-cost-usd", usd(tab.nano_usd).encode()),
                ]
                if self.recall is not None:
                    own.append(_MISS)
                responder.send(200, own, body, self._standing(target))
            else:  # the caller asked for a stream, and the server does not stream
                self._start(target)
                responder.write(events)
                responder.end()
            self.log_reply(200, None, (body, model, usage), target)
            if self.recall is not None:
                self.recall.keep(body, model, usage)
        finally:
            self.close()

    def _standing(self, target: Target) -> Headers:
        grant = self.grant
        assert grant is not None
        found = grant.standing.get(target)
        if found is None:
            found = (JSON_HEADER, self.route.header, target.header, *grant.rate_headers)
            grant.standing[target] = found
        return found

    # --- streams -----------------------------------------------------------------------------------------------------

    def _relay(self, flow: Flow, data: bytes) -> None:
        try:
            out = flow.feed(data)
        except Fault as fault:
            self.drop_call()
            self._failed(fault)
            return
        if flow.state.fault is not None:
            self._broken(flow.state.fault, out)
        elif out:
            self._write(out)

    def _broken(self, fault: Fault, out: bytes) -> None:
        """The provider told an error within its stream; what stands before it still counts once something was said."""
        self.drop_call()
        if out and self.begun:
            self.responder.write(out)
        self._failed(fault)

    def _write(self, out: bytes) -> None:
        responder = self.responder
        if not self.begun:
            assert self.target is not None
            self._start(self.target)
        responder.write(out)
        if responder.full and self._call is not None:
            self._call.pause()
            responder.on_drain = self._drained

    def _start(self, target: Target) -> None:
        self.begun = True
        self.first_at = clock()
        assert self.grant is not None
        headers = [*_STREAM_HEADERS, (b"x-request-id", self.request_id.encode()), self.route.header, target.header]
        headers += self.grant.rate_headers
        if self.recall is not None:
            headers.append(_MISS)
        self.responder.start(200, headers)

    def _drained(self) -> None:
        self.responder.on_drain = None
        if self._call is not None:
            self._call.resume()

    def _stream_ended(self, flow: Flow) -> None:
        target = self.target
        assert target is not None
        if not flow.state.finished or flow.state.fault is not None:
            self._failed(state_fault(flow.state))
            return
        try:
            rest = flow.end()
        except Fault as fault:
            self._failed(fault)
            return
        target.under_way -= 1
        target.breaker.success()
        learn_latency(target, self.first_at - self.asked_at, self.first_at)
        self._call = None
        if rest or not self.begun:
            self._write(rest)
        usage = flow.state.usage or self.size.received(flow.state.received)
        self._book(target, usage)
        self.tab.settle(asked=True)
        self.done = True
        try:
            self.responder.end()
            self.log_reply(200, None, (None, flow.state.model, usage), target)
            if self.recall is not None and not flow.cut:
                whole = assembled(self.operation, flow.kept)
                self.recall.keep(orjson.dumps(whole), flow.state.model, usage)
        finally:
            self.close()

    # --- failures ----------------------------------------------------------------------------------------------------

    def _failed(self, fault: Fault) -> None:
        """One attempt failed: book what it may have cost, then ask again, elsewhere, or tell the caller."""
        target = self.target
        assert target is not None
        now = clock()
        sent = self._call is not None and self._call.sent
        flow, self.flow, self._call = self.flow, None, None
        target.under_way -= 1
        usage = self._spent(fault, sent, flow)
        if usage is not None:
            self._book(target, usage)
        if faults.counts(fault):
            if target.breaker.failure(now):
                self.gate.metrics.count("llmops_gateway_breaker_opened_total", target=target.label)
        else:
            target.breaker.abandon()
            if fault.kind == "rate_limited" and fault.retry_after_s is not None:
                target.rests_until = now + fault.retry_after_s
        self.gate.metrics.count("llmops_gateway_attempts_failed_total", target=target.label, kind=fault.kind)
        if self.begun:
            self._break_off(fault, target, usage, flow)
            return
        self._note(target, fault.kind, fault.status, usage)
        if self._again(fault, target):
            return
        if faults.elsewhere(fault):
            self._spare(target)
            self.advance(fault)
        else:
            self.refuse(faults.told(fault))

    def _spent(self, fault: Fault, sent: bool, flow: Flow | None) -> Usage | None:
        """What a failed attempt used: by its own count, else by what arrived; None where it cost nothing."""
        if flow is not None and (flow.state.usage is not None or flow.state.received):
            return flow.state.usage or self.size.received(flow.state.received)
        if not faults.may_cost(fault, sent):
            return None
        return self.size.received(self._received // _BYTES_PER_TOKEN if self._head == 200 else 0)

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
        self.timer = self.gate.loop.call_later(wait, self._ask_again)
        return True

    def _ask_again(self) -> None:
        self.timer = None
        if not self.done:
            self._cover_and_ask()

    def _give_up(self, fault: Fault | None, now: float) -> None:
        """No target is left: the answer kept from a cheaper one, else the reason."""
        if self.kept is not None:
            reply, target = self.kept
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

    def _break_off(self, fault: Fault, target: Target, usage: Usage | None, flow: Flow | None) -> None:
        """After the first byte: an error event in the caller's format, then the end."""
        shown = faults.told(fault)
        self.tab.settle(asked=True)
        self.flow = flow
        model = flow.state.model if flow is not None else None
        self.done = True
        try:
            self.responder.write(self.dialect.writer(self.body).fault(shown))
            self.responder.end()
            self.log_reply(shown.status, fault.kind, (None, model, usage or NO_USAGE), target)
        finally:
            self.close()

    # --- ends from outside -------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """The longest time of a request is over."""
        if self.done:
            return
        fault = Fault("total_timeout", f"no whole reply within {self.route.total_s:g} s", 504)
        if self._call is None:
            self.refuse(faults.told(fault))
        else:
            self.drop_call()
            self._failed(fault)

    def _gone(self) -> None:
        """The caller left: stop the upstream, book what was received."""
        if self.done:
            return
        self.done = True
        target, call, flow = self.target, self._call, self.flow
        usage: Usage | None = None
        try:
            if call is not None and target is not None:
                call.cancel()
                target.under_way -= 1
                target.breaker.abandon()
                usage = self._spent(Fault("cancelled", "the caller left"), call.sent, flow)
                if usage is not None:
                    self._book(target, usage)
            self.tab.settle(asked=self.asked)
            model = flow.state.model if flow is not None else None
            self.log_reply(499, "client_gone", (None, model, usage or NO_USAGE), target)
        finally:
            self.close()

    def drop_call(self) -> None:
        if self._call is not None:
            self._call.cancel()

    def _book(self, target: Target, usage: Usage) -> None:
        self.cost = target.cost(usage)
        self.tab.book(self.cost, usage)

    def _note(self, target: Target, outcome: str, status: int, usage: Usage | None) -> None:
        """Keep an attempt that did not answer the caller; its cost goes to its own row."""
        began_s, ended_s = self.asked_at - self.started, clock() - self.started
        attempt = Attempt(target, outcome, status, self.cost, usage, began_s, ended_s)
        self.cost = 0
        if self.attempts is None:
            self.attempts = []
        self.attempts.append(attempt)


def _is_stream(headers: Headers) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
