"""The rows a client call leaves in the inference log.

One row of layer `gateway` for each client call; its cost and tokens are those of the attempt that answered (also where
the answer was broken off, or the caller left). Each other attempt that cost something has a row of its own, of layer
`gateway_attempt`, whose `parent_invocation_id` is the call's row. So the sum of `cost_usd` over all rows is what was
spent, by model too, and the number of rows of layer `gateway` is the number of calls. The tag `attempts` of the call's
row tells what was tried, as JSON, wherever more than one attempt was made or the only one failed.

Knows columns and tags; redaction and the cutting of long bodies are the spool's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import orjson

from llmops.core.ids import new_id
from llmops.gateway.assemble import assembled
from llmops.gateway.calls import Fault, Usage
from llmops.gateway.engine.seldom import USUAL
from llmops.gateway.spans import ASKED_TAG, PARENT_TAG, ROW_TAGS, Trace

if TYPE_CHECKING:
    from llmops.gateway.engine.call import ClientCall
    from llmops.gateway.engine.flow import Flow
    from llmops.gateway.engine.plan import Target

Row = dict[str, Any]

_OF_A_CALL: Final = dict.fromkeys(
    ("invocation_id", "request_id", "request_time", "status_code", "latency_ms", "cost_usd")
)
"""What every row tells of its own call."""
_OF_ONE_ROW: Final = ROW_TAGS | {"attempts"}
"""Tags of a call's row that the rows of its attempts do not repeat."""


@dataclass(slots=True)
class Attempt:
    """One try at one target that did not answer the caller. Times are seconds since the call came."""

    target: Target
    outcome: str
    status: int
    nano_usd: int
    usage: Usage | None
    began_s: float
    ended_s: float


def reply_row(
    call: ClientCall,
    status: int,
    error: str | None,
    reply: tuple[bytes | None, str | None, Usage],
    target: Target | None,
    now: float,
) -> Row:
    """The row of a call that was answered, broken off, or left by its caller."""
    body, model, usage = reply
    row = _call_row(call, target, status, error, now)
    row["input_tokens"] = usage.input_tokens
    row["output_tokens"] = usage.output_tokens
    row["cost_usd"] = usd(call.cost)
    if call.first_at:
        row["ttfb_ms"] = (call.first_at - call.started) * 1e6 // 1 / 1e3
    if model is not None:
        row["model_version"] = model
    if usage.cached_tokens or usage.estimated or usage.reasoning_tokens or usage.cache_write_tokens or usage.searches:
        row["tags"] = row["tags"] | _usage_tags(usage)
    if call.route.log_bodies:
        asked = call.logged_request
        if asked is not None:
            row["request_json"] = asked.decode("utf-8", "replace")
        if body is not None:
            row["response_json"] = body.decode("utf-8", "replace")
        elif call.flow is not None:
            _streamed(row, call, call.flow, usage)
    return row


def error_row(call: ClientCall, fault: Fault, target: Target | None, now: float) -> Row:
    """The row of a call that got an error instead of an answer. Calls refused for a ceiling leave no bodies."""
    row = _call_row(call, target, fault.status, fault.code or fault.kind, now)
    row["cost_usd"] = "0"
    if call.route.log_bodies and call.asked and call.logged_request is not None:
        row["request_json"] = call.logged_request.decode("utf-8", "replace")
    row["response_json"] = orjson.dumps({"error": {"message": fault.message, "code": fault.code}}).decode()
    return row


def attempt_rows(call: ClientCall) -> list[Row]:
    """Rows of the attempts that cost something without answering."""
    rows = []
    for attempt in call.attempts or ():
        if attempt.usage is None:
            continue
        duration_s = attempt.ended_s - attempt.began_s
        row = _call_row(call, attempt.target, attempt.status, attempt.outcome, call.started + duration_s)
        row["invocation_id"] = new_id()
        row["parent_invocation_id"] = call.invocation_id
        row["layer"] = "gateway_attempt"
        row["request_time"] = call.time_us + int(attempt.began_s * 1e6)
        row["input_tokens"] = attempt.usage.input_tokens
        row["output_tokens"] = attempt.usage.output_tokens
        row["cost_usd"] = usd(attempt.nano_usd)
        tags = row["tags"] | _usage_tags(attempt.usage)
        row["tags"] = {name: value for name, value in tags.items() if name not in _OF_ONE_ROW}
        rows.append(row)
    return rows


def usd(nano: int) -> str:
    """Nano-dollars as the decimal text of dollars."""
    return "%d.%09d" % divmod(nano, 1_000_000_000)  # noqa: UP031 - half as long as an f-string


def _call_row(call: ClientCall, target: Target | None, status: int, error: str | None, now: float) -> Row:
    """What every row of a call holds. The tags are shared by rows: whoever adds to them makes others."""
    grant = call.grant
    assert grant is not None
    template = grant.templates.get((target, call.operation)) or _template(call, target)
    row = template.copy()
    row["invocation_id"] = call.invocation_id
    row["request_id"] = call.request_id
    row["request_time"] = call.time_us
    row["status_code"] = status
    row["latency_ms"] = (now - call.started) * 1e6 // 1 / 1e3
    if error is not None:
        row["error_class"] = error
    if call.attempts is not None:
        row["tags"] = row["tags"] | {"attempts": _told(call.attempts)}
    if call.seldom is not USUAL or call.flow is not None:
        _optional(row, call)
    return row


def _template(call: ClientCall, target: Target | None) -> Row:
    """What the rows of one key, route and target have in common, with room for the rest: a copy need not grow."""
    grant, route = call.grant, call.route
    assert grant is not None
    tags = {**grant.tags, "operation": call.operation}
    if target is not None:
        tags |= {"target": target.label, "provider": target.config.provider, "model": target.config.model}
        if target.price.unpriced:
            tags["unpriced"] = "1"
    if grant.team is not None:
        tags["team"] = grant.team
    found = grant.templates[target, call.operation] = {
        "layer": "gateway",
        "endpoint": route.name,
        "asset_kind": "route",
        "asset_name": route.asset,
        "asset_version": route.version,
        "sampling_fraction": 1.0,
        "assignment_p": 1.0,
        "requester": grant.requester,
        "tags": tags,
        **_OF_A_CALL,
    }
    return found


def _optional(row: Row, call: ClientCall) -> None:
    own = call.seldom
    tags = {**(own.tags or {}), **row["tags"]}
    if own.user is not None:
        tags["user"] = own.user
    if own.client_id is not None:
        row["client_request_id"] = own.client_id
    if own.parent_id is not None:
        row["parent_invocation_id"] = own.parent_id
    if own.trace is not None:
        row["trace_id"] = own.trace.trace_id
        if call.plan.sample is not None and own.trace.sampled:
            _traced(tags, call, own.trace)
    if own.session is not None:
        row["session_id"] = own.session
    if own.arm is not None and own.unit is not None and call.route.config.experiment is not None:
        row["variant"] = own.arm
        row["assignment_p"] = own.propensity
        row["experiment_id"] = call.route.config.experiment.id
        row["unit_id_hash"] = sha256(own.unit.encode("utf-8", "replace")).hexdigest()
    if own.waited_s:
        row["queue_ms"] = round(own.waited_s * 1000, 3)
    findings = own.findings + (call.flow.findings if call.flow is not None else ())
    if findings:
        tags["findings"] = ",".join(dict.fromkeys(findings))
    if own.cached is not None:
        tags["cache"] = own.cached
    row["tags"] = tags


def _traced(tags: dict[str, str], call: ClientCall, trace: Trace) -> None:
    """What the control process makes the call's spans from; the last attempt's begin where it is not told already."""
    tags[PARENT_TAG] = trace.parent
    if trace.tries > len(call.attempts or ()):
        tags[ASKED_TAG] = f"{trace.asked_s * 1000:.3f}"


def _usage_tags(usage: Usage) -> dict[str, str]:
    tags = {}
    if usage.cached_tokens:
        tags["cached_tokens"] = str(usage.cached_tokens)
    if usage.cache_write_tokens:
        tags["cache_write_tokens"] = str(usage.cache_write_tokens)
    if usage.reasoning_tokens:
        tags["reasoning_tokens"] = str(usage.reasoning_tokens)
    if usage.searches:
        tags["searches"] = str(usage.searches)
    if usage.estimated:
        tags["estimated"] = "true"
    return tags


def _streamed(row: Row, call: ClientCall, flow: Flow, usage: Usage) -> None:
    value = assembled(call.operation, flow.kept)
    if not value.get("usage"):
        value["usage"] = {name: count for name, count in asdict(usage).items() if count}
    row["response_json"] = orjson.dumps(value).decode()
    if flow.cut:
        row["logging_error_codes"] = ["MAX_RESPONSE_SIZE_EXCEEDED"]


def _told(attempts: list[Attempt]) -> str:
    return orjson.dumps(
        [
            {
                "target": attempt.target.label,
                "outcome": attempt.outcome,
                "status": attempt.status,
                "cost_usd": usd(attempt.nano_usd),
                "began_ms": round(attempt.began_s * 1000),
                "ended_ms": round(attempt.ended_s * 1000),
            }
            for attempt in attempts
        ]
    ).decode()
