"""What is known of one caller's request, and how it ends: what was admitted, the error reply, the row, the numbers.

`ClientCall` is the caller's side; `exchange` adds the upstream's. Whatever happens, `close` runs once: reservations are
settled, one row is written, and the plan in force when the request came hears that it is no longer needed.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import orjson

from llmops.core.ids import new_id
from llmops.gateway.calls import (
    Dialect,
    Fault,
    Headers,
    KeyPolicy,
    Operation,
    Refused,
    Request,
    Responder,
    Usage,
)
from llmops.gateway.engine import admission, faults
from llmops.gateway.engine.candidates import Search, arm_of, start_tier
from llmops.gateway.engine.flow import Flow
from llmops.gateway.engine.measure import measure
from llmops.gateway.engine.plan import Plan, Route, Target
from llmops.gateway.engine.recall import Recall
from llmops.gateway.engine.record import Attempt, Row, attempt_rows, error_row, reply_row
from llmops.gateway.engine.seldom import USUAL, Seldom
from llmops.gateway.engine.tab import Tab
from llmops.gateway.spans import begin_trace, read_trace

if TYPE_CHECKING:
    from llmops.gateway.engine.gate import Gate

JSON_HEADER: Final = (b"content-type", b"application/json")
NO_USAGE: Final = Usage()
_log = logging.getLogger(__name__)
clock = time.monotonic


class ClientCall:
    """One client call, but for the asking."""

    __slots__ = (
        "asked", "attempts", "begun", "body", "caller", "cost", "deadline", "done", "first_at", "flow",
        "gate", "grant", "invocation_id", "logged_request", "operation", "plan", "recall", "request", "request_id",
        "responder", "route", "search", "seldom", "size", "started", "streaming", "tab", "target", "time_us",
    )  # fmt: skip

    def __init__(self, gate: Gate, request: Request, responder: Responder, caller: admission.Caller) -> None:
        self.gate = gate
        plan: Plan = gate.plan
        self.plan = plan
        self.request = request
        self.responder = responder
        self.caller = caller
        self.operation: Operation = caller.operation
        self.started = clock()
        self.time_us = time.time_ns() // 1000
        self.invocation_id = self.request_id = new_id()
        self.logged_request: bytes | None = request.body
        self.seldom = USUAL
        self.grant: admission.Grant | None = None
        self.target: Target | None = None
        self.flow: Flow | None = None
        self.recall: Recall | None = None
        self.attempts: list[Attempt] | None = None
        self.search: Search | None = None
        self.done = self.asked = self.begun = False
        self.first_at = 0.0
        self.cost = 0
        plan.running += 1
        gate.metrics.under_way += 1

    @property
    def policy(self) -> KeyPolicy | None:
        return self.caller.policy

    @property
    def dialect(self) -> Dialect:
        return self.gate.dialects[self.operation]

    def own(self) -> Seldom:
        """What this request has beyond the usual, to be written to."""
        if self.seldom is USUAL:
            self.seldom = Seldom()
        return self.seldom

    # --- admission ---------------------------------------------------------------------------------------------------

    def admit(self) -> None:
        """Read and check the request, up to what it may ask for. Raises Fault."""
        caller, raw = self.caller, self.request.body
        if caller.says_more:
            self.own().client_id = admission.read_client_id(self.request.headers)
        body = self.body = admission.read_body(raw)
        grant = self.gate.grant_of(caller, body)
        route = self.route = grant.route
        user = admission.user_of(body)
        if user is not None:
            self.own().user = user
        self.grant = grant
        self.tab = Tab(self.gate.allowances, grant.meters if user is None else grant.meters_of(user))
        if caller.says_more:
            self._hear(self.request.headers, grant)
        if self.plan.sample is not None and self.seldom.trace is None:
            self.own().trace = begin_trace(self.plan.sample)
        self.streaming = body.get("stream") is True
        size = self.size = measure(self.operation, body, raw)
        admission.check_depth(body, raw, size.plain)
        if not size.plain or route.guards.checks_input:
            self._check_input()
        if route.only is None:
            self._search(route, grant)

    def _hear(self, headers: dict[bytes, bytes], grant: admission.Grant) -> None:
        """What only some callers say in headers."""
        own = self.own()
        if own.client_id is not None and grant.trusted:
            self.request_id = own.client_id
            if (shown := headers.get(b"x-llmops-parent-invocation")) is not None:
                own.parent_id = admission.read_id(shown)
        if (shown := headers.get(b"x-llmops-tags")) is not None:
            own.tags = admission.read_tags(shown)
        if (shown := headers.get(b"x-llmops-session")) is not None:
            own.session = admission.read_session(shown)
        if (shown := headers.get(b"traceparent")) is not None:
            own.trace = read_trace(shown)

    def _search(self, route: Route, grant: admission.Grant) -> None:
        """Where there is something to choose: the tier to begin with, and the arm."""
        search = self.search = Search(route, self.operation, self.size)
        if route.roi:
            tier = start_tier(route.roi, self.body, self.size, {**(self.seldom.tags or {}), **grant.tags})
            search.tier = min(tier, route.tiers[-1][0].tier)
        if route.arms:
            self._assign(search, grant)

    def _check_input(self) -> None:
        verdict = self.route.guards.check_input(self.operation, self.body)
        if verdict.findings:
            self.own().findings = verdict.findings
        if verdict.action == "blocked":
            self.logged_request = None
            self.count_guarded("blocked")
            raise verdict.fault()
        if verdict.action == "masked":
            self.body = verdict.body
            self.logged_request = orjson.dumps(verdict.body)
            self.count_guarded("masked")
        if verdict.unresolved:
            self.own().unresolved = verdict

    def _assign(self, search: Search, grant: admission.Grant) -> None:
        """The sticky arm; it counts only where the request starts in the tier that the experiment is about."""
        experiment = self.route.config.experiment
        assert experiment is not None
        own = self.own()
        unit = {"user": own.user, "session": own.session, "key": grant.key_id, "request": None}[experiment.unit]
        own.unit = unit or (self.request_id if experiment.unit == "request" else grant.requester)
        if search.tier <= self.route.tiers[0][0].tier:
            own.arm, own.propensity = arm_of(self.route, own.unit)
            search.arm = own.arm

    # --- ends --------------------------------------------------------------------------------------------------------

    def refuse(self, fault: Fault, headers: Headers = ()) -> None:
        """An error reply, in the caller's format."""
        if self.done:
            return
        self.done = True
        try:
            if self.grant is not None:
                self.tab.settle(asked=self.asked)
            self.gate.send_fault(self.responder, self.dialect, fault, self.request_id, headers)
            if self.grant is not None:
                now = clock()
                tally = self.gate.tally(self.grant, self.target if self.asked else None, fault.status)
                tally.calls += 1
                tally.time(now - self.started, None)
                self._write_rows(error_row(self, fault, self.target if self.asked else None, now))
            else:
                self.gate.metrics.count("llmops_gateway_rejected_total", code=fault.code or "")
        finally:
            self.close()

    def over(self, refused: Refused) -> None:
        """A ceiling is reached."""
        assert self.grant is not None
        subject = refused.meter.subject.partition(":")[0]
        self.gate.metrics.count("llmops_gateway_refused_total", subject=subject, what=refused.meter.what)
        self.refuse(faults.over_limit(refused), faults.limit_headers(refused, self.grant.rate_headers))

    def withhold(self, fault: Fault, model: str | None, usage: Usage, target: Target) -> None:
        """A guard blocked the answer: it was made and paid for, and the caller gets the reason instead."""
        self.tab.settle(asked=True)
        self.count_guarded("blocked")
        self.done = True
        try:
            self.gate.send_fault(self.responder, self.dialect, fault, self.request_id)
            self.log_reply(fault.status, fault.code, (None, model, usage), target)
        finally:
            self.close()

    def crash(self) -> None:
        """Our own error at the request's boundary: logged with its trace, told as 500."""
        _log.exception("the request %s could not be handled", self.request_id)
        if self.done or self.begun:
            self.responder.abort()  # whoever waits for the rest must not wait for ever; after a whole answer: nothing
        if self.begun:
            self.leave(500, "internal_error")
        elif not self.done:
            self.forsake()
            self.refuse(Fault("server_error", "the gateway failed; its log says why", 500, code="internal_error"))

    def leave(self, status: int, error: str) -> None:
        """End without a word to the caller; what was received upstream is booked."""

    def forsake(self) -> None:
        """Stop what is under way upstream, which says nothing of the target."""

    def log_reply(
        self, status: int, error: str | None, reply: tuple[bytes | None, str | None, Usage], target: Target | None
    ) -> None:
        """Count and log a call that was answered, broken off, or left; `reply` is body, model and usage."""
        grant = self.grant
        assert grant is not None
        now = clock()
        tally = grant.tallies.get((target, status)) or self.gate.tally(grant, target, status)
        tally.calls += 1
        tally.book(reply[2], self.cost)
        tally.durations.fresh.append(now - self.started)
        if self.first_at:
            tally.first_bytes.fresh.append(self.first_at - self.started)
        self._write_rows(reply_row(self, status, error, reply, target, now))

    def count_guarded(self, action: str) -> None:
        self.gate.metrics.count("llmops_gateway_guarded_total", route=self.route.name, action=action)

    def close(self) -> None:
        """Let go of everything that outlives the request."""
        self.done = True
        if self.seldom.timer is not None:
            self.seldom.timer.cancel()
        if self.recall is not None:
            self.recall.drop()
        gate = self.gate
        if self.grant is not None:
            gate.timers.forget(self)  # type: ignore[arg-type]
        gate.metrics.under_way -= 1
        plan = self.plan
        plan.running -= 1
        if plan.retired is not None and not plan.running:
            plan.close()

    def _write_rows(self, row: Row) -> None:
        gate = self.gate
        gate.log(row)
        if self.attempts is not None:
            self._write_attempts(gate)

    def _write_attempts(self, gate: Gate) -> None:
        """What was paid for beside the answer."""
        assert self.attempts is not None
        assert self.grant is not None
        for attempt in self.attempts:
            if attempt.usage is not None:
                gate.tally(self.grant, attempt.target, attempt.status).book(attempt.usage, attempt.nano_usd)
        for paid in attempt_rows(self):
            gate.log(paid)
