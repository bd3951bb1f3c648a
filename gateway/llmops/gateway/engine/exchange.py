"""One request on its way: admitted, covered, sent, answered, booked and logged, by plain callbacks.

The exchange listens to one upstream call at a time. On the normal path - enough allowance at hand, no cache, the
caller's own format - nothing here waits, so there is no task and no future. A retry waits by a timer; asking the shared
store is a task. Whatever happens, `_close` runs once: reservations are settled, and one row is written.

What the caller sees of a failure: before the first byte an error reply in its own format, after retries and fallbacks;
after the first byte an error event in its own format, then the end of the stream.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import orjson

from llmops.core.errors import LlmopsError
from llmops.core.ids import new_id
from llmops.gateway import pricing
from llmops.gateway.calls import (
    Fault,
    Headers,
    Json,
    KeyPolicy,
    Meter,
    Operation,
    Refused,
    Reply,
    Request,
    Responder,
    UpstreamCall,
    UpstreamRequest,
    Usage,
)
from llmops.gateway.engine import admission, faults
from llmops.gateway.engine.candidates import Search, arm_of, learn_latency, start_tier
from llmops.gateway.engine.flow import Flow, as_chunks, state_fault
from llmops.gateway.engine.measure import Size, measure
from llmops.gateway.engine.plan import Plan, Route, Target
from llmops.gateway.engine.record import Attempt, Row, attempt_rows, error_row, reply_row
from llmops.gateway.engine.tab import Tab
from llmops.gateway.guard import Verdict

if TYPE_CHECKING:
    from llmops.gateway.engine.gate import Gate

_JSON_HEADER = (b"content-type", b"application/json")
_STREAM_HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))
_MOST_REPLY_BYTES = 64 * 1024 * 1024
_NO_USAGE = Usage()
_log = logging.getLogger(__name__)
_clock = time.monotonic


class Exchange:
    """One client call. A `Listener` to the upstream call under way."""

    __slots__ = (
        "_call", "_guest", "_head", "_headers", "_kept", "_parts", "_received", "_search", "_serial", "_target",
        "_timer", "_tries", "_unresolved", "_upstream", "arm", "asked", "asked_at", "attempts", "begun", "body",
        "cached", "client_id", "cost", "deadline", "dialect", "done", "findings", "first_at", "flow", "gate",
        "grant", "invocation_id", "logged_request", "native", "operation", "plan", "policy", "propensity", "raw",
        "request", "request_id", "responder", "route", "session", "size", "started", "streaming", "tab", "tags",
        "time_us", "trace_id", "unit", "user", "waited_s",
    )  # fmt: skip

    def __init__(
        self, gate: Gate, request: Request, responder: Responder, operation: Operation, policy: KeyPolicy | None
    ) -> None:
        self.gate = gate
        self.plan: Plan = gate.plan
        self.policy = policy
        self.request = request
        self.responder = responder
        self.operation = operation
        self.dialect = gate.dialects[operation]
        self.started = _clock()
        self.time_us = time.time_ns() // 1000
        self.invocation_id = self.request_id = new_id()
        self.client_id: str | None = None
        self.trace_id: str | None = None
        self.session: str | None = None
        self.user: str | None = None
        self.unit: str | None = None
        self.arm: str | None = None
        self.propensity = 1.0
        self.tags: dict[str, str] | None = None
        self.findings: tuple[str, ...] = ()
        self.attempts: list[Attempt] | None = None
        self.raw = request.body
        self.logged_request: bytes | None = request.body
        self.begun = self.done = self.asked = self.cached = False
        self.first_at = 0.0
        self.waited_s = 0.0
        self.cost = 0
        self._target: Target | None = None
        self._call: UpstreamCall | None = None
        self.flow: Flow | None = None
        self._kept: tuple[Reply, Target] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unresolved: Verdict | None = None
        self._guest: tuple[Meter, ...] = ()
        self._serial = self._tries = 0

    # --- admission ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """From the door to the first attempt."""
        self.plan.running += 1
        self.gate.metrics.under_way += 1
        self.grant: admission.Grant | None = None
        try:
            self._admit()
        except Fault as fault:
            self._refuse(fault)
            return
        self.responder.on_gone = self._gone
        self.deadline = self.gate.timers.now + self.route.total_s
        self.gate.timers.watch(self)
        if self._unresolved is not None:
            self.gate.spawn(self._resolve(self._unresolved))
        else:
            self._advance()

    def _admit(self) -> None:
        headers = self.request.headers
        if (shown := headers.get(b"x-request-id")) is not None:
            self.client_id = admission.read_id(shown)
        self.body: Json = admission.read_body(self.raw)
        self.route: Route = admission.route_of(self.plan, self.policy, self.body, self.operation)
        self.user = admission.user_of(self.body)
        grant = self.grant = self.gate.grant(self.plan, self.policy, self.route)
        self.tab = Tab(self.gate.allowances, grant.meters_of(self.user))
        if self.client_id is not None and grant.trusted:
            self.request_id = self.client_id
        if (shown := headers.get(b"x-llmops-tags")) is not None:
            self.tags = admission.read_tags(shown)
        if (shown := headers.get(b"x-llmops-session")) is not None:
            self.session = admission.read_session(shown)
        if (shown := headers.get(b"traceparent")) is not None:
            self.trace_id = admission.read_trace(shown)
        self.streaming = self.body.get("stream") is True
        self.size: Size = measure(self.operation, self.body, self.raw)
        if self.route.guards.checks_input or not self.size.plain:
            self._check_input()
        self._search = Search(self.route, self.operation, self.size, 0, None)
        if self.route.roi:
            tags = {**(self.tags or {}), **grant.tags}
            self._search.tier = start_tier(self.route.roi, self.body, self.size, tags)
        if self.route.arms:
            self._assign()

    def _check_input(self) -> None:
        verdict = self.route.guards.check_input(self.operation, self.body)
        self.findings = verdict.findings
        if verdict.action == "blocked":
            self.logged_request = None
            self.gate.metrics.count("llmops_gateway_guarded_total", route=self.route.name, action="blocked")
            raise verdict.fault()
        if verdict.action == "masked":
            self.body = verdict.body
            self.logged_request = orjson.dumps(verdict.body)
            self.gate.metrics.count("llmops_gateway_guarded_total", route=self.route.name, action="masked")
        self._unresolved = verdict if verdict.unresolved else None

    def _assign(self) -> None:
        """The sticky arm; it counts only where the request starts in the tier that the experiment is about."""
        assert self.route.config.experiment is not None
        assert self.grant is not None
        kind = self.route.config.experiment.unit
        unit = {"user": self.user, "session": self.session, "key": self.grant.key_id, "request": None}[kind]
        self.unit = unit or (self.request_id if kind == "request" else self.grant.requester)
        self.arm, self.propensity = arm_of(self.route, self.unit)
        self._search.arm = self.arm

    async def _resolve(self, verdict: Verdict) -> None:
        """Look up where the request's pictures point, before anybody fetches them."""
        verdict = await self.route.guards.resolve(verdict)
        self.findings = verdict.findings
        if self.done:
            return
        if verdict.action == "blocked":
            self.logged_request = None
            self._refuse(verdict.fault())
        else:
            self._advance()

    # --- targets and cover -------------------------------------------------------------------------------------------

    def _advance(self, fault: Fault | None = None) -> None:
        """Go to the next target; with none left, tell the caller why the last one failed."""
        while True:
            now = _clock()
            only = self.route.only
            if only is not None and not self._search.tried and only.breaker.admits(now):
                target = only
            else:
                found = self._search.next(now)
                if found is None:
                    self._give_up(fault, now)
                    return
                route, target = found
                self._guest = () if route is self.route else self.gate.route_meters(route)
            self._target = target
            self._tries = 0
            try:
                self._upstream: UpstreamRequest = self._built(target)
            except Fault as unable:
                self._search.tried = (*self._search.tried, target)
                fault = fault or unable
                continue
            break
        self._cover_and_ask()

    def _built(self, target: Target) -> UpstreamRequest:
        operation = self.operation
        self.native = operation in target.native and not self._checked_stream()
        if self.native or operation in ("embeddings", "rerank"):
            return target.provider.build(operation, self.body, target.config)
        return target.provider.build("chat", self.dialect.to_chat(self.body), target.config)

    def _checked_stream(self) -> bool:
        """A stream that a guard reads travels as chat chunks, whatever its format."""
        return self.streaming and self.route.guards.checks_output

    def _cover_and_ask(self) -> None:
        target = self._target
        assert target is not None
        try:
            most_input, most_output = self.size.worst(target.config)
            searches = 0 if self.operation != "rerank" else self.size.searches
            worst = pricing.worst(most_input, most_output, target.price, searches)
            if self.tab.knows_guest(self._guest) and self.tab.try_cover(worst, most_input + most_output):
                self._ask()
            else:
                self.gate.spawn(self._cover_later(worst, most_input + most_output))
        except Refused as refused:
            self._over(refused)
        except Fault as fault:
            self._refuse(fault)

    async def _cover_later(self, worst: int, tokens: int) -> None:
        """Ask the shared store. A caller who leaves meanwhile is waited for: what was reserved must be given back."""
        began = _clock()
        fault: Fault | None = None
        try:
            await self.tab.cover(worst, tokens)
            if not self.tab.knows_guest(self._guest):
                await self.tab.cover_guest(self._guest, worst, tokens)
        except Refused as refused:
            if not self.done:
                self._over(refused)
            return
        except LlmopsError as error:
            fault = faults.from_error(error)
        self.waited_s += _clock() - began
        if self.done:
            self.tab.settle(asked=self.asked)
        elif fault is not None:
            self._refuse(fault)
        else:
            self._ask()

    def _over(self, refused: Refused) -> None:
        self.gate.metrics.count(
            "llmops_gateway_refused_total", subject=refused.meter.subject.partition(":")[0], what=refused.meter.what
        )
        self._refuse(faults.over_limit(refused))

    # --- one attempt -------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        target = self._target
        assert target is not None
        self._serial += 1
        serial = self._serial
        self._tries += 1
        self._parts: list[bytes] = []
        self._received = self._head = 0
        self._headers: Headers = ()
        self._call = None
        self.cost = 0
        if self.streaming:
            self.flow = self._open_flow(target)
        target.breaker.begin()
        target.under_way += 1
        self.asked_at = _clock()
        self.asked = True
        route = self.route
        call = target.pool.call(self._upstream, self, first_byte_s=route.first_byte_s, idle_s=route.idle_s)
        if serial == self._serial and not self.done:
            self._call = call

    def _open_flow(self, target: Target) -> Flow:
        keep = self.route.log_bodies
        if self.native:
            return Flow(target.provider.relay(self.operation, self.body), keep=keep)
        checks = self.route.guards.open_stream() if self.route.guards.checks_output else None
        return Flow(None, target.provider.reader(self.body), self.dialect.writer(self.body), checks, keep=keep)

    def on_head(self, status: int, headers: Headers) -> None:
        self._head = status
        self._headers = headers
        if not self.begun:
            self.first_at = _clock()
        if self.flow is not None and (status != 200 or not _is_stream(headers)):
            self.flow = None  # an error, or a server that does not stream: its reply is read whole

    def on_data(self, data: bytes) -> None:
        if self.flow is not None:
            self._relay(self.flow, data)
            return
        self._parts.append(data)
        self._received += len(data)
        if self._received > _MOST_REPLY_BYTES:
            self._drop_call()
            self._failed(Fault("invalid", f"the provider's reply has more than {_MOST_REPLY_BYTES} bytes"))

    def on_end(self) -> None:
        if self.flow is not None:
            self._stream_ended(self.flow)
            return
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        target = self._target
        assert target is not None
        if self._head != 200:
            self._failed(target.provider.fault(self._head, self._headers, body))
            return
        try:
            operation = self.operation if self.native or self.operation in ("embeddings", "rerank") else "chat"
            reply = target.provider.reply(operation, body)
        except Fault as fault:
            self._failed(fault)
            return
        self._answered(reply, target)

    def on_fault(self, fault: Fault) -> None:
        if not self.done:
            self._failed(fault)

    # --- whole replies -----------------------------------------------------------------------------------------------

    def _answered(self, reply: Reply, target: Target) -> None:
        """A whole good reply arrived: said in the caller's format, booked, sent, logged."""
        if self.streaming and self.native and self.operation != "chat":
            self._failed(Fault("invalid", "the provider did not stream, though it was asked to"))
            return
        self._well(target)
        try:
            body = (
                reply.body
                if self.streaming or self.native or self.operation in ("embeddings", "rerank")
                else self._said(reply.body)
            )
        except Fault as fault:
            self._failed(fault)
            return
        usage = reply.usage or self.size.received(len(reply.body) // 4)
        self._book(target, usage)
        if self.streaming:
            self._stream_whole(reply, usage, target)
            return
        if self.route.escalation is not None and self._escalates(reply, body, target, usage):
            return
        if self.route.guards.checks_output:
            verdict = self.route.guards.check_output(self.operation, orjson.loads(body))
            self.findings += verdict.findings
            if verdict.action == "blocked":
                self._withhold(verdict.fault(), reply.model, usage, target)
                return
            if verdict.action == "masked":
                body = orjson.dumps(verdict.body)
        self._send_whole(body, reply.model, usage, target)

    def _said(self, body: bytes) -> bytes:
        return orjson.dumps(self.dialect.from_chat(orjson.loads(body), self.body))

    def _escalates(self, reply: Reply, body: bytes, target: Target, usage: Usage) -> bool:
        """Ask a better tier where the answer is not good enough; this one is kept for the case that nobody answers."""
        escalation = self.route.escalation
        assert escalation is not None
        if target.tier >= escalation.to_tier or self._kept is not None or self.streaming:
            return False
        reason = escalation.reason(self.body, orjson.loads(body))
        if reason is None:
            return False
        self._kept = (Reply(body, usage, reply.model), target)
        self._note(target, f"escalated:{reason}", 200, usage)
        self.gate.metrics.count("llmops_gateway_escalations_total", route=self.route.name, reason=reason)
        self._search.tried = (*self._search.tried, target)
        self._search.tier = escalation.to_tier
        self._advance()
        return True

    def _send_whole(self, body: bytes, model: str | None, usage: Usage, target: Target) -> None:
        self.tab.settle(asked=True)
        nano = self.tab.nano_usd
        headers = (
            _JSON_HEADER,
            (b"x-request-id", self.request_id.encode()),
            self.route.header,
            target.header,
            (b"x-llmops-cost-usd", b"%d.%09d" % divmod(nano, 1_000_000_000)),
        )
        self.done = True
        try:
            self.responder.send(200, headers, body)
            self._log_reply(200, None, body, model, usage, target)
        finally:
            self._close()

    def _withhold(self, fault: Fault, model: str | None, usage: Usage, target: Target) -> None:
        """A guard blocked the answer: it was made and paid for, and the caller gets the reason instead."""
        self.tab.settle(asked=True)
        self.done = True
        try:
            self.gate.send_fault(self.responder, self.dialect, fault, self.request_id)
            self._log_reply(fault.status, fault.code, None, model, usage, target)
        finally:
            self._close()

    # --- streams -----------------------------------------------------------------------------------------------------

    def _relay(self, flow: Flow, data: bytes) -> None:
        try:
            out = flow.feed(data)
        except Fault as fault:
            self._drop_call()
            self._failed(fault)
            return
        if flow.state.fault is not None:
            self._drop_call()
            self._failed(flow.state.fault)
            return
        if out:
            self._write(out)

    def _write(self, out: bytes) -> None:
        responder = self.responder
        if not self.begun:
            self._start()
        responder.write(out)
        if responder.full and self._call is not None:
            self._call.pause()
            responder.on_drain = self._drained

    def _start(self) -> None:
        assert self._target is not None
        self.begun = True
        self.first_at = _clock()
        headers = (
            *_STREAM_HEADERS,
            (b"x-request-id", self.request_id.encode()),
            self.route.header,
            self._target.header,
        )
        self.responder.start(200, headers)

    def _stream_whole(self, reply: Reply, usage: Usage, target: Target) -> None:
        """The caller asked for a stream, and the server does not stream: its answer as a stream of one piece."""
        writer = self.dialect.writer(self.body)
        chunks = as_chunks(orjson.loads(reply.body))
        if self.route.guards.checks_output:
            guard = self.route.guards.open_stream()
            chunks = [*guard.feed(chunks), *guard.finish()]
            self.findings += guard.findings
            if guard.fault is not None:
                self._withhold(guard.fault, reply.model, usage, target)
                return
        self._start()
        self.responder.write(writer.feed(chunks) + writer.end())
        self.tab.settle(asked=True)
        self.responder.end()
        self._log_reply(200, None, reply.body, reply.model, usage, target)
        self._close()

    def _drained(self) -> None:
        self.responder.on_drain = None
        if self._call is not None:
            self._call.resume()

    def _stream_ended(self, flow: Flow) -> None:
        target = self._target
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
        self.tab.settle(asked=True)
        self.responder.end()
        self._log_reply(200, None, None, flow.state.model, usage, target)
        self._close()

    # --- failures ----------------------------------------------------------------------------------------------------

    def _failed(self, fault: Fault) -> None:
        """One attempt failed: book what it may have cost, then ask again, elsewhere, or tell the caller."""
        target = self._target
        assert target is not None
        now = _clock()
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
            self._search.tried = (*self._search.tried, target)
            self._advance(fault)
        else:
            self._refuse(faults.told(fault))

    def _spent(self, fault: Fault, sent: bool, flow: Flow | None) -> Usage | None:
        """What a failed attempt used: by its own count, else by what arrived; None where it cost nothing."""
        if flow is not None and (flow.state.usage is not None or flow.state.received):
            return flow.state.usage or self.size.received(flow.state.received)
        return self.size.received(self._received // 4) if faults.may_cost(fault, sent) else None

    def _again(self, fault: Fault, target: Target) -> bool:
        """Ask the same target again after a pause, where that is worth while."""
        retry = self.route.config.retry
        if self._tries >= retry.attempts or not faults.again_here(fault):
            return False
        wait = self.gate.jitter() * retry.backoff_s * 2.0 ** (self._tries - 1)
        asked = fault.retry_after_s
        if asked is not None:
            self._search.tried = (*self._search.tried, target)
            others = self._search.next(_clock()) is not None
            self._search.tried = self._search.tried[:-1]
            if asked > retry.max_wait_s or (others and asked > wait):
                return False
            wait = max(wait, asked)
        if not target.breaker.admits(_clock()):
            return False
        self._timer = self.gate.loop.call_later(wait, self._cover_and_ask_again)
        return True

    def _cover_and_ask_again(self) -> None:
        self._timer = None
        if not self.done:
            self._cover_and_ask()

    def _give_up(self, fault: Fault | None, now: float) -> None:
        """No target is left: the answer kept from a cheaper one, else the reason."""
        if self._kept is not None:
            reply, target = self._kept
            kept = next(attempt for attempt in self.attempts or () if attempt.target is target)
            self.cost, kept.nano_usd, kept.usage = kept.nano_usd, 0, None
            self._send_whole(reply.body, reply.model, reply.usage or _NO_USAGE, target)
            return
        if fault is None:
            wait = self._search.reopens_in_s(now)
            if wait is None:
                fault = faults.refusal(400, "no_target", "no target of the route can take this request")
            else:
                fault = Fault("overloaded", "every target of the route is failing", 503, wait, "targets_failing")
        self._refuse(faults.told(fault))

    def _break_off(self, fault: Fault, target: Target, usage: Usage | None, flow: Flow | None) -> None:
        """After the first byte: an error event in the caller's format, then the end."""
        shown = faults.told(fault)
        self.tab.settle(asked=True)
        self.responder.write(self.dialect.writer(self.body).fault(shown))
        self.responder.end()
        self.flow = flow
        model = flow.state.model if flow is not None else None
        self._log_reply(shown.status, fault.kind, None, model, usage or _NO_USAGE, target)
        self._close()

    def _refuse(self, fault: Fault) -> None:
        """An error reply, in the caller's format."""
        if self.done:
            return
        if self.grant is not None:
            self.tab.settle(asked=self.asked)
        self.gate.send_fault(self.responder, self.dialect, fault, self.request_id)
        if self.grant is not None:
            now = _clock()
            tally = self.gate.tally(self.grant, self._target, fault.status)
            tally.calls += 1
            tally.time(now - self.started, None)
            self._log(error_row(self, fault, self._target if self.asked else None, now))
        else:
            self.gate.metrics.count("llmops_gateway_rejected_total", code=fault.code or "")
        self._close()

    # --- ends --------------------------------------------------------------------------------------------------------

    def _gone(self) -> None:
        """The caller left: stop the upstream, book what was received."""
        self._end_early("client_gone", 499)

    def expire(self) -> None:
        """The longest time of a request is over."""
        if self.done:
            return
        fault = Fault("total_timeout", f"no whole reply within {self.route.total_s:g} s", 504)
        if self._call is None:
            self._refuse(faults.told(fault))
            return
        self._search.tried = ()
        self._drop_call()
        self._failed(fault)

    def _end_early(self, why: str, status: int) -> None:
        if self.done:
            return
        target, call, flow = self._target, self._call, self.flow
        usage: Usage | None = None
        if call is not None and target is not None:
            self._drop_call()
            target.under_way -= 1
            target.breaker.abandon()
            usage = self._spent(Fault("cancelled", why), call.sent, flow)
            if usage is not None:
                self._book(target, usage)
        self.tab.settle(asked=self.asked)
        model = flow.state.model if flow is not None else None
        self._log_reply(status, why, None, model, usage or _NO_USAGE, target)
        self._close()

    def crash(self) -> None:
        """Our own error at the request's boundary: logged with its trace, told as 500."""
        _log.exception("the request %s could not be handled", self.request_id)
        if self.done:
            return
        self._drop_call()
        if self.begun:
            self.responder.abort()
            self.tab.settle(asked=True)
            self._close()
        else:
            self._refuse(Fault("server_error", "the gateway failed; its log says why", 500, code="internal_error"))

    def _well(self, target: Target) -> None:
        target.under_way -= 1
        target.breaker.success()
        now = self.first_at
        learn_latency(target, now - self.asked_at, now)
        self._call = None

    def _book(self, target: Target, usage: Usage) -> None:
        self.cost = pricing.cost(usage, target.price)
        self.tab.book(self.cost, usage)

    def _drop_call(self) -> None:
        call = self._call
        if call is not None:
            call.cancel()

    def _note(self, target: Target, outcome: str, status: int, usage: Usage | None) -> None:
        """Keep an attempt that did not answer the caller; its cost goes to its own row."""
        began_s, ended_s = self.asked_at - self.started, _clock() - self.started
        attempt = Attempt(target, outcome, status, self.cost, usage, began_s, ended_s)
        self.cost = 0
        if self.attempts is None:
            self.attempts = []
        self.attempts.append(attempt)

    def _log_reply(
        self, status: int, error: str | None, body: bytes | None, model: str | None, usage: Usage, target: Target | None
    ) -> None:
        assert self.grant is not None
        now = _clock()
        tally = self.gate.tally(self.grant, target, status)
        tally.calls += 1
        tally.book(usage, self.cost)
        tally.time(now - self.started, self.first_at - self.started if self.first_at else None)
        self._log(reply_row(self, status, error, (body, model, usage), target, now))

    def _log(self, row: Row) -> None:
        self.gate.log(row)
        if self.attempts is None:
            return
        assert self.grant is not None
        for attempt in self.attempts:
            if attempt.usage is not None:
                self.gate.tally(self.grant, attempt.target, attempt.status).book(attempt.usage, attempt.nano_usd)
        for paid in attempt_rows(self):
            self.gate.log(paid)

    def _close(self) -> None:
        self.done = True
        self.responder.on_gone = None
        self.responder.on_drain = None
        if self._timer is not None:
            self._timer.cancel()
        if self.grant is not None:
            self.gate.timers.forget(self)
        self.gate.metrics.under_way -= 1
        self.plan.finished()


def _is_stream(headers: Headers) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
