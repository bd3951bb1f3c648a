"""One client call from begin to end: what each attempt brings is heard here, and what follows from it is decided.

`call` knows the caller's side, `answering` how answers leave, `asking` whom to ask and when again. An exchange listens
to one upstream call at a time. A failure is told to the caller after retries and fallbacks; once something was said,
it ends the stream.
"""

from __future__ import annotations

import time
from typing import Final

import orjson

from llmops.gateway.calls import Fault, Headers, Reply, Usage
from llmops.gateway.engine import faults
from llmops.gateway.engine.asking import BYTES_PER_TOKEN, Asking
from llmops.gateway.engine.call import NO_USAGE, clock
from llmops.gateway.engine.candidates import learn_latency
from llmops.gateway.engine.flow import Flow, state_fault
from llmops.gateway.engine.plan import Target
from llmops.gateway.engine.recall import Recall
from llmops.gateway.guard import Verdict
from llmops.gateway.http.head import STREAMS

_MOST_REPLY_BYTES: Final = 64 * 1024 * 1024


class Exchange(Asking):
    """One client call with its attempts. A `Listener` to the upstream call under way."""

    __slots__ = ("_headers", "_parts")

    def begin(self) -> None:
        """From the door to the first attempt."""
        self._call = None
        try:
            self.admit()
            self.responder.on_gone = self._gone
            route, timers = self.route, self.gate.timers
            self.deadline = timers.now + route.total_s
            if self.caller.expires_at is not None:
                self._hasten(self.caller.expires_at)
            timers.watch(self)
            unresolved = self.seldom.unresolved
            if unresolved is not None:
                self.gate.spawn(self._resolve(unresolved), self.crash)
            elif route.cache is None or not self._recalled():
                self.advance()
        except Fault as fault:
            self.refuse(fault)
        except Exception:  # noqa: BLE001 - the boundary of a request; `crash` logs the trace
            self.crash()

    async def _resolve(self, verdict: Verdict) -> None:
        """Look up where the request's URLs point, before anybody fetches them."""
        verdict = await self.route.guards.resolve(verdict)
        self.own().findings = verdict.findings
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
        if cache is None or self.seldom.arm is not None:  # an arm's answers belong to it alone
            return False
        lookup = cache.lookup(self.operation, self.body, self.policy, self.request.headers.get(b"cache-control"))
        if lookup is None:
            return False
        self.recall = Recall(cache, lookup, self)
        return self.recall.begin()

    # --- what an attempt brings --------------------------------------------------------------------------------------

    def on_reply(self, status: int, headers: Headers, body: bytes) -> None:
        if self.flow is None:
            self._head, self._received = status, len(body)
            self.first_at = clock()
            self._replied(status, headers, body)
            return
        call = self._call
        self.on_head(status, headers)
        if body:
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
        if self.done:
            self.responder.abort()
        elif self._call is None:  # the target answered well, and we failed with its answer
            self.crash()
        else:
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
        self._well(target)
        usage = reply.usage
        if usage is None:
            usage = self.size.received(len(body) // BYTES_PER_TOKEN)
        self.cost = nano = target.cost(usage)
        self.tab.book(nano, usage, self.seldom.guest)
        self._answered(said, reply.model, usage, target)

    def _well(self, target: Target) -> None:
        """The target answered as it should."""
        self._call = None
        target.under_way -= 1
        target.breaker.success()
        learn_latency(target, self.first_at - self.asked_at, self.first_at)

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
            self.own().findings += verdict.findings
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
        if target.tier >= escalation.to_tier or self.seldom.kept is not None or self.streaming:
            return False
        reason = escalation.reason(self.body, orjson.loads(body))
        if reason is None:
            return False
        self.own().kept = (Reply(body, usage, model), target)
        self._note(target, f"escalated:{reason}", 200, usage)
        self.gate.metrics.count("llmops_gateway_escalations_total", route=self.route.name, reason=reason)
        self._spare(target).tier = escalation.to_tier
        self.advance()
        return True

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
        self._well(target)
        if rest or not self.begun:
            self._write(rest)
        usage = flow.state.usage or self.size.received(flow.state.received)
        self._book(target, usage)
        self._end_stream(flow, usage, target)

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

    # --- ends from outside -------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """The longest time of a request is over."""
        if self.done:
            return
        expires_at, left_s = self.caller.expires_at, self.route.total_s - (clock() - self.started)
        if expires_at is not None and expires_at <= time.time():
            self.lock_out()
            return
        if expires_at is not None and left_s > 0:  # the wall clock was set back
            self.deadline = self.gate.timers.now + left_s
            self._hasten(expires_at)
            return
        fault = Fault("total_timeout", f"no whole reply within {self.route.total_s:g} s", 504)
        if self._call is None:
            self.refuse(faults.told(fault))
        else:
            self.drop_call()
            self._failed(fault)

    def _hasten(self, expires_at: float) -> None:
        """Look again at the latest when the caller's key ends."""
        self.deadline = min(self.deadline, self.gate.timers.now + max(0.0, expires_at - time.time()))

    def lock_out(self) -> None:
        """The caller's key was revoked, or has ended: so does its answer. What was received is booked."""
        if self.done:
            return
        target, call, flow = self.target, self._call, self.flow
        usage: Usage | None = None
        if call is not None and target is not None:
            self.forsake()
            usage = self._spent(Fault("cancelled", "the key ended"), call.sent, flow)
            if usage is not None:
                self._book(target, usage)
        fault = faults.refusal(401, "invalid_api_key", "the key is not valid any more")
        if self.begun and target is not None:
            self._break_off(fault, target, usage, flow)
            return
        self.flow = None
        if call is not None and target is not None:
            self._note(target, "cancelled", 401, usage)
        self.refuse(fault)

    def _gone(self) -> None:
        """The caller left: stop the upstream, book what was received."""
        self.leave(499, "client_gone")

    def leave(self, status: int, error: str) -> None:
        if self.done:
            return
        self.done = True
        target, call, flow = self.target, self._call, self.flow
        usage: Usage | None = None
        try:
            if call is not None and target is not None:
                self.forsake()
                usage = self._spent(Fault("cancelled", "the caller left"), call.sent, flow)
                if usage is not None:
                    self._book(target, usage)
            self.tab.settle(asked=self.asked)
            model = flow.state.model if flow is not None else None
            self.log_reply(status, error, (None, model, usage or NO_USAGE), target)
        finally:
            self.close()


def _is_stream(headers: Headers) -> bool:
    return any(name == b"content-type" and value.startswith(STREAMS) for name, value in headers)
