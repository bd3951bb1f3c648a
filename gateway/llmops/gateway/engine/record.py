"""The rows a client call leaves in the inference log.

One row of layer `gateway` for each client call; its cost and tokens are those of the attempt that answered (also where
the answer was broken off, or the caller left). Each other attempt that cost something has a row of its own, of layer
`gateway_attempt`, whose `parent_invocation_id` is the call's row. So the sum of `cost_usd` over all rows is what was
spent, by model too, and the number of rows of layer `gateway` is the number of calls. The tag `attempts` of the call's
row tells what was tried, as JSON, wherever more than one attempt was made or the only one failed.

Knows columns and tags; redaction and the cutting of long bodies are the spool's.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson

from llmops.core.ids import new_id
from llmops.gateway.calls import Fault, Usage
from llmops.gateway.engine.assemble import assembled

if TYPE_CHECKING:
    from llmops.gateway.engine.exchange import Exchange
    from llmops.gateway.engine.flow import Flow
    from llmops.gateway.engine.plan import Target

Row = dict[str, Any]


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
    exchange: Exchange,
    status: int,
    error: str | None,
    reply: tuple[bytes | None, str | None, Usage],
    target: Target | None,
    now: float,
) -> Row:
    """The row of a call that was answered, broken off, or left by its caller."""
    body, model, usage = reply
    row = _call_row(exchange, target, status, error, now)
    row["input_tokens"] = usage.input_tokens
    row["output_tokens"] = usage.output_tokens
    row["cost_usd"] = usd(exchange.cost)
    if exchange.first_at:
        row["ttfb_ms"] = round((exchange.first_at - exchange.started) * 1000, 3)
    if model is not None:
        row["model_version"] = model
    _usage_tags(row["tags"], usage)
    if exchange.route.log_bodies:
        if exchange.logged_request is not None:
            row["request_json"] = exchange.logged_request.decode("utf-8", "replace")
        if body is not None:
            row["response_json"] = body.decode("utf-8", "replace")
        elif exchange.flow is not None:
            _streamed(row, exchange, exchange.flow, usage)
    return row


def error_row(exchange: Exchange, fault: Fault, target: Target | None, now: float) -> Row:
    """The row of a call that got an error instead of an answer. Calls refused for a ceiling leave no bodies."""
    row = _call_row(exchange, target, fault.status, fault.code or fault.kind, now)
    row["cost_usd"] = "0"
    if exchange.route.log_bodies and exchange.asked and exchange.logged_request is not None:
        row["request_json"] = exchange.logged_request.decode("utf-8", "replace")
    row["response_json"] = orjson.dumps({"error": {"message": fault.message, "code": fault.code}}).decode()
    return row


def attempt_rows(exchange: Exchange) -> list[Row]:
    """Rows of the attempts that cost something without answering."""
    rows = []
    for attempt in exchange.attempts or ():
        if attempt.usage is None:
            continue
        duration_s = attempt.ended_s - attempt.began_s
        row = _call_row(exchange, attempt.target, attempt.status, attempt.outcome, exchange.started + duration_s)
        row["invocation_id"] = new_id()
        row["parent_invocation_id"] = exchange.invocation_id
        row["layer"] = "gateway_attempt"
        row["request_time"] = exchange.time_us + int(attempt.began_s * 1e6)
        row["input_tokens"] = attempt.usage.input_tokens
        row["output_tokens"] = attempt.usage.output_tokens
        row["cost_usd"] = usd(attempt.nano_usd)
        row["tags"].pop("attempts", None)
        _usage_tags(row["tags"], attempt.usage)
        rows.append(row)
    return rows


def usd(nano: int) -> str:
    """Nano-dollars as the decimal text of dollars."""
    return f"{nano // 1_000_000_000}.{nano % 1_000_000_000:09d}"


def _call_row(exchange: Exchange, target: Target | None, status: int, error: str | None, now: float) -> Row:
    grant = exchange.grant
    assert grant is not None
    route = exchange.route
    tags = grant.tags.copy() if exchange.tags is None else {**exchange.tags, **grant.tags}
    tags["operation"] = exchange.operation
    if target is not None:
        tags["target"] = target.label
        tags["provider"] = target.config.provider
        tags["model"] = target.config.model
        if target.price.unpriced:
            tags["unpriced"] = "1"
    if grant.team is not None:
        tags["team"] = grant.team
    if exchange.user is not None:
        tags["user"] = exchange.user
    row: Row = {
        "invocation_id": exchange.invocation_id,
        "layer": "gateway",
        "request_id": exchange.request_id,
        "request_time": exchange.time_us,
        "endpoint": route.name,
        "asset_kind": "route",
        "asset_name": route.asset,
        "asset_version": route.version,
        "assignment_p": exchange.propensity,
        "status_code": status,
        "latency_ms": round((now - exchange.started) * 1000, 3),
        "sampling_fraction": 1.0,
        "tags": tags,
        "requester": grant.requester,
    }
    if error is not None:
        row["error_class"] = error
    _optional(row, exchange)
    return row


def _optional(row: Row, exchange: Exchange) -> None:
    if exchange.client_id is not None:
        row["client_request_id"] = exchange.client_id
    if exchange.trace_id is not None:
        row["trace_id"] = exchange.trace_id
    if exchange.session is not None:
        row["session_id"] = exchange.session
    if exchange.arm is not None and exchange.unit is not None and exchange.route.config.experiment is not None:
        row["variant"] = exchange.arm
        row["experiment_id"] = exchange.route.config.experiment.id
        row["unit_id_hash"] = sha256(exchange.unit.encode("utf-8", "replace")).hexdigest()
    if exchange.waited_s:
        row["queue_ms"] = round(exchange.waited_s * 1000, 3)
    findings = exchange.findings + (exchange.flow.findings if exchange.flow is not None else ())
    if findings:
        row["tags"]["findings"] = ",".join(dict.fromkeys(findings))
    if exchange.cached:
        row["tags"]["cache"] = "hit"
    if exchange.attempts:
        row["tags"]["attempts"] = _told(exchange.attempts)


def _usage_tags(tags: dict[str, str], usage: Usage) -> None:
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


def _streamed(row: Row, exchange: Exchange, flow: Flow, usage: Usage) -> None:
    value = assembled(exchange.operation, flow.kept, usage)
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
