"""The handler of the HTTP server: tells requests apart by path, checks who calls, and opens an exchange for each call.

Knows paths, keys and the collaborators that every exchange needs. The configuration in force is `plan`; it is swapped
whole, and exchanges keep the one they began with.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from llmops.core.errors import LlmopsError
from llmops.core.ids import new_id
from llmops.gateway.calls import (
    PATHS,
    Allowances,
    Dialect,
    Fault,
    Headers,
    Json,
    KeyPolicy,
    Meter,
    Operation,
    Request,
    Responder,
)
from llmops.gateway.dialects import open_dialect
from llmops.gateway.engine import admission
from llmops.gateway.engine.counting import PATH as COUNT_PATH
from llmops.gateway.engine.counting import TokenCount
from llmops.gateway.engine.exchange import Exchange
from llmops.gateway.engine.faults import refusal
from llmops.gateway.engine.host import check_origin
from llmops.gateway.engine.inner import Inner
from llmops.gateway.engine.metrics import Metrics, Tally
from llmops.gateway.engine.models import models_reply
from llmops.gateway.engine.plan import Plan, Route, Target
from llmops.gateway.http.timers import Timers
from llmops.gateway.keyring import Ring

_JSON: Final = (b"content-type", b"application/json")
_MOST_GRANTS: Final = 50_000
_ROWS_AT_ONCE: Final = 32
"""Rows that are encoded together: their bodies are in memory twice meanwhile."""

_PATH_OF: Final = {operation: path for path, operation in PATHS.items()}
_log = logging.getLogger(__name__)


class _Dialects(dict[Operation, Dialect]):
    """Each is loaded by the first request that speaks it."""

    def __missing__(self, operation: Operation) -> Dialect:
        found = self[operation] = open_dialect(operation)
        return found


class Log(Protocol):
    """Where rows go: the spool, or whoever wants to look at them."""

    def append_all(self, table: str, records: Sequence[Mapping[str, Any]]) -> bool: ...


@dataclass(slots=True)
class Staff:
    """Whom every exchange works with."""

    allowances: Allowances
    spool: Log
    metrics: Metrics
    timers: Timers
    loop: asyncio.AbstractEventLoop


class Gate:
    """`handle` takes a request and the way back. `ready` is what /readyz tells."""

    def __init__(self, plan: Plan, ring: Ring, staff: Staff) -> None:
        self.plan = plan
        self.ring = ring
        self.allowances = staff.allowances
        self.metrics = staff.metrics
        self.timers = staff.timers
        self.dialects = _Dialects()
        self.loop = staff.loop
        self.jitter = random.random
        self.ready = True
        self._spool = staff.spool
        self._rows: list[Mapping[str, Any]] = []
        self._table = plan.config.inference_log
        self._grants: dict[tuple[str | None, str], admission.Grant] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._epoch = admission.Epoch()
        """Another one with each change of keys or configuration: what was found out in an older one is void."""

    def handle(self, request: Request, responder: Responder) -> None:
        caller: admission.Caller | None = request.caller
        if caller is None or caller.epoch is not self._epoch or caller.expires_at is not None:
            caller = self._met(request, responder)
            if caller is None:
                return
        Exchange(self, request, responder, caller).begin()

    def _met(self, request: Request, responder: Responder) -> admission.Caller | None:
        """Find out who asks for what; None where the request was answered with that, or asks no model."""
        operation = PATHS.get(request.path)
        if operation is None:
            self._elsewhere(request, responder)
            return None
        try:
            if request.method != "POST":
                raise refusal(405, "method_not_allowed", f"{request.path} takes POST")
            policy = self._who(request)
        except Fault as fault:
            self.metrics.count("llmops_gateway_rejected_total", code=fault.code or "")
            self.send_fault(responder, self.dialects[operation], fault, new_id())
            return None
        caller = request.caller = admission.Caller.of(operation, policy, request.headers, self._epoch)
        return caller

    # --- what exchanges ask of it ------------------------------------------------------------------------------------

    def grant_of(self, caller: admission.Caller, body: Json) -> admission.Grant:
        """What this caller may do on the route that a body names. Raises Fault."""
        name = body.get("model")
        found = caller.grants.get(name) if type(name) is str else None
        if found is None:
            route = admission.route_of(self.plan, caller.policy, body, caller.operation)
            found = caller.grants[route.name] = self.grant(self.plan, caller.policy, route)
        return found

    def grant(self, plan: Plan, policy: KeyPolicy | None, route: Route) -> admission.Grant:
        """What this key may do on this route, worked out once for a configuration and a key snapshot."""
        key = (policy.key_id if policy is not None else None, route.name)
        found = self._grants.get(key)
        if found is None or found.route is not route:
            found = admission.grant(plan, policy, route)
            if plan is self.plan:
                if len(self._grants) >= _MOST_GRANTS:
                    self._grants.clear()
                self._grants[key] = found
        return found

    def route_meters(self, route: Route) -> tuple[Meter, ...]:
        """The own ceilings of a route, for when it is asked as another's fallback."""
        return self.grant(self.plan, None, route).meters

    def tally(self, grant: admission.Grant, target: Target | None, status: int) -> Tally:
        """The numbers that a call of this kind is counted in."""
        key = (target, status)
        found = grant.tallies.get(key)
        if found is None:
            label = target.label if target is not None else ""
            found = self.metrics.tally(grant.route.name, label, f"{status // 100}xx", grant.team or "")
            grant.tallies[key] = found
        return found

    def log(self, row: Mapping[str, Any]) -> None:
        """One row for the spool, with the others of this turn, once its replies are out."""
        rows = self._rows
        if not rows:
            self.timers.outbox.after(self._log_rows)
        rows.append(row)

    def _log_rows(self) -> None:
        rows, self._rows = self._rows, []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            self._keep(rows[start : start + _ROWS_AT_ONCE])

    def _keep(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """What the spool refuses is counted: a full disk must not stop the replies, nor one row the others."""
        try:
            if not self._spool.append_all(self._table, rows):
                self.metrics.count("llmops_gateway_rows_shed_total", len(rows))
        except LlmopsError as error:
            if len(rows) > 1:
                for row in rows:
                    self._keep((row,))
                return
            self.metrics.count("llmops_gateway_rows_failed_total")
            _log.error("a row of the inference log could not be kept: %s", error)

    def send_fault(
        self, responder: Responder, dialect: Dialect, fault: Fault, request_id: str, more: Headers = ()
    ) -> None:
        """An error reply in the caller's format."""
        headers = [_JSON, (b"x-request-id", request_id.encode()), *more]
        if fault.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, round(fault.retry_after_s + 0.499))))
        if fault.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        responder.send(fault.status, headers, dialect.error(fault, request_id))

    def spawn(self, work: Coroutine[Any, Any, None], failed: Callable[[], None] | None = None) -> None:
        """Run what has to wait. `failed` is called while its exception is handled."""
        task = self.loop.create_task(_guarded(work, failed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def rest(self) -> None:
        """Wait for what was spawned, at the end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)

    async def ask(self, operation: Operation, body: Json) -> tuple[int, Json]:
        """A call of our own, through the ceilings and the log of the route that it names: status and reply."""
        answer = Inner(self.loop)
        request = Request("POST", _PATH_OF[operation], "", {}, orjson.dumps(body))
        Exchange(self, request, answer, admission.Caller(operation, None)).begin()
        status, raw = await answer.whole
        return status, orjson.loads(raw)

    async def embed(self, route: str, text: str) -> Sequence[float]:
        """A text's embedding by one of our own routes, whose ceilings and log it goes through. Raises Fault."""
        status, value = await self.ask("embeddings", {"model": route, "input": text})
        if status != 200:
            raise Fault("server_error", str(value.get("error", {}).get("message", "")), status)
        return [float(number) for number in value["data"][0]["embedding"]]

    def renew_keys(self) -> bool:
        """Take over a changed key snapshot. What is being answered to a key that is no longer in it ends."""
        changed = self.ring.refresh()
        if changed:
            self._forget()
            for thing in self.timers.watching():
                if isinstance(thing, Exchange) and thing.policy is not None and not self.ring.holds(thing.policy):
                    thing.lock_out()
        return changed

    def renew_plan(self, plan: Plan) -> None:
        """Requests from now on follow the new plan; the old one closes what is its own after its last request."""
        old, self.plan = self.plan, plan
        self._table = plan.config.inference_log
        self._forget()
        old.retire(plan, self.spawn)

    def _forget(self) -> None:
        self._grants.clear()
        self._epoch = admission.Epoch()

    # --- the door ----------------------------------------------------------------------------------------------------

    def _who(self, request: Request) -> KeyPolicy | None:
        """The key behind a request; None for a program on this machine that needs none."""
        headers = request.headers
        plan = self.plan
        if (fault := plan.host.check(headers.get(b"host"))) is not None:
            raise fault
        token = admission.token_of(headers)
        if token is not None and (plan.keys_needed or token.startswith(b"lk_")):
            policy = self.ring.find(token)
            if policy is None:
                raise admission.unauthenticated()
            if admission.SCOPE not in policy.scopes:
                raise admission.no_scope(policy)
            return policy
        if plan.keys_needed:
            raise admission.unauthenticated()
        if (fault := check_origin(headers)) is not None:
            raise fault
        return None

    def _elsewhere(self, request: Request, responder: Responder) -> None:
        path, headers = request.path, request.headers
        try:
            if path in ("/healthz", "/readyz"):
                self._health(path, responder)
                return
            policy = self._who(request)
            if path == "/v1/models" or path.startswith("/v1/models/"):
                if request.method not in ("GET", "HEAD"):
                    raise refusal(405, "method_not_allowed", f"{path} takes GET")
                body = models_reply(self.plan, policy, path[len("/v1/models/") :], b"anthropic-version" in headers)
                responder.send(200, (_JSON,), body)
                return
            if path == COUNT_PATH:
                if request.method != "POST":
                    raise refusal(405, "method_not_allowed", f"{path} takes POST")
                caller = admission.Caller.of("messages", policy, headers, self._epoch)
                TokenCount(self, request, responder, caller).begin()
                return
            raise refusal(404, "not_found", f"nothing is served at {path[:200]}", "see the paths under /v1/")
        except Fault as fault:
            self.metrics.count("llmops_gateway_rejected_total", code=fault.code or "")
            anthropic = path == COUNT_PATH or b"anthropic-version" in headers
            operation: Operation = "messages" if anthropic else "chat"
            self.send_fault(responder, self.dialects[operation], fault, new_id())

    def _health(self, path: str, responder: Responder) -> None:
        good = self.ready or path == "/healthz"
        body = orjson.dumps({"status": "ok" if good else "draining"})
        responder.send(200 if good else 503, (_JSON,), body)


async def _guarded(work: Coroutine[Any, Any, None], failed: Callable[[], None] | None) -> None:
    try:
        await work
    except Exception:  # noqa: BLE001 - the boundary of a request or a task
        if failed is None:
            _log.exception("a task of the gateway failed")
        else:
            failed()
