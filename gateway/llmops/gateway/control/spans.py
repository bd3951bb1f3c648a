"""What a trace shows of a call: rows of the inference log, as steps by OpenTelemetry's conventions for generative AI.

A call is one step, each attempt at a target one below it. Knows columns, tags and names of attributes; reading rows and
sending steps is `traces`'. What was asked and answered is told only where the configuration says so.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from llmops.core.tracing import Told, said
from llmops.gateway.config import GatewayConfig
from llmops.gateway.control.telemetry import OPERATIONS, PROVIDERS
from llmops.gateway.spans import ASKED_TAG, PARENT_TAG, span_id

Row = Mapping[str, Any]

COLUMNS: Final = (
    "invocation_id", "layer", "request_id", "trace_id", "session_id", "request_time", "endpoint", "asset_version",
    "variant", "status_code", "error_class", "latency_ms", "ttfb_ms", "queue_ms", "input_tokens", "output_tokens",
    "cost_usd", "tags", "model_version",
)  # fmt: skip
BODIES: Final = ("request_json", "response_json")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_COUNTS: Final = {
    "gen_ai.usage.cache_read.input_tokens": "cached_tokens",
    "gen_ai.usage.cache_creation.input_tokens": "cache_write_tokens",
    "gen_ai.usage.reasoning.output_tokens": "reasoning_tokens",
}


def is_traced(row: Row) -> bool:
    """Whether a row is a call whose trace is kept."""
    return row["layer"] == "gateway" and row["trace_id"] is not None and PARENT_TAG in (row["tags"] or {})


def ended_at(row: Row) -> datetime:
    """When a row's call was over."""
    moment: datetime = row["request_time"] + timedelta(milliseconds=row["latency_ms"] or 0.0)
    return moment


def steps_of(row: Row, config: GatewayConfig) -> Iterator[Told]:
    """The steps of a traced call: itself, then its attempts in their order."""
    operation = OPERATIONS.get(row["tags"].get("operation", ""), row["tags"].get("operation", "chat"))
    parent = row["tags"][PARENT_TAG]
    failed = orjson.loads(row["tags"].get("attempts", "[]"))
    yield Told(
        name=f"{operation} {row['endpoint']}",
        trace_id=row["trace_id"],
        span_id=span_id(row["invocation_id"]),
        parent=parent,
        kind="server",
        began_ns=_at(row, 0.0),
        ended_ns=_at(row, row["latency_ms"] or 0.0),
        attributes={**_call(row, operation, config), "llmops.attempts": len(failed) + (ASKED_TAG in row["tags"])},
        remote=bool(parent),
        error=_error(row),
    )
    for number, attempt in enumerate(failed, 1):
        good = attempt["status"] == 200
        more = {"llmops.cost_usd": float(attempt["cost_usd"]), "llmops.outcome": attempt["outcome"]}
        times = (attempt["began_ms"], max(attempt["began_ms"], attempt["ended_ms"]))
        one = _Attempt(number, attempt["target"], times, more, None if good else attempt["outcome"])
        yield _step(row, operation, one, config)
    if ASKED_TAG in row["tags"]:
        began_ms = float(row["tags"][ASKED_TAG])
        times = (began_ms, max(began_ms, row["latency_ms"] or 0.0))
        one = _Attempt(len(failed) + 1, row["tags"].get("target", ""), times, _used(row), _error(row))
        yield _step(row, operation, one, config)


class _Attempt:
    """One try at one target; times are milliseconds after the call came."""

    def __init__(
        self, number: int, target: str, times: tuple[float, float], more: Mapping[str, Any], error: str | None
    ) -> None:
        self.number = number
        self.provider, _, self.model = target.partition("/")
        self.times = times
        self.more = more
        self.error = error


def _step(row: Row, operation: str, attempt: _Attempt, config: GatewayConfig) -> Told:
    call = span_id(row["invocation_id"])
    return Told(
        name=f"{operation} {attempt.model}",
        trace_id=row["trace_id"],
        span_id=span_id(row["invocation_id"], attempt.number),
        parent=call,
        kind="client",
        began_ns=_at(row, attempt.times[0]),
        ended_ns=_at(row, attempt.times[1]),
        attributes={
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": attempt.model,
            **_provider(attempt.provider, config),
            "llmops.attempt": attempt.number,
            **attempt.more,
        },
        error=attempt.error,
    )


def _call(row: Row, operation: str, config: GatewayConfig) -> dict[str, Any]:
    tags = row["tags"]
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _provider(tags.get("provider", ""), config)["gen_ai.provider.name"],
        "gen_ai.request.model": row["endpoint"],
        "gen_ai.conversation.id": row["session_id"],
        "http.response.status_code": row["status_code"],
        **_used(row),
        "llmops.request_id": row["request_id"],
        "llmops.invocation_id": row["invocation_id"],
        "llmops.route": row["endpoint"],
        "llmops.route.version": row["asset_version"],
        "llmops.variant": row["variant"],
        "llmops.team": tags.get("team"),
        "llmops.cache": tags.get("cache"),
        "llmops.findings": tags.get("findings"),
        **_content(row, config),
    }


def _used(row: Row) -> dict[str, Any]:
    """What the answer took: tokens, money, time to its first byte."""
    tags = row["tags"]
    counts = {name: int(tags[tag]) for name, tag in _COUNTS.items() if tag in tags}
    return {
        "gen_ai.response.model": row["model_version"],
        "gen_ai.response.time_to_first_chunk": None if row["ttfb_ms"] is None else row["ttfb_ms"] / 1000,
        "gen_ai.usage.input_tokens": row["input_tokens"],
        "gen_ai.usage.output_tokens": row["output_tokens"],
        **counts,
        "llmops.cost_usd": None if row["cost_usd"] is None else float(row["cost_usd"]),
    }


def _provider(name: str, config: GatewayConfig) -> dict[str, Any]:
    known = config.providers.get(name)
    if known is None:
        return {"gen_ai.provider.name": "llmops"}
    url = urlsplit(known.base_url)
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return {"gen_ai.provider.name": PROVIDERS[known.kind], "server.address": url.hostname, "server.port": port}


def _error(row: Row) -> str | None:
    if row["error_class"] is not None:
        return str(row["error_class"])
    return None if row["status_code"] == 200 else str(row["status_code"])


def _at(row: Row, after_ms: float) -> int:
    """Nanoseconds since 1970, without a float in between that could not hold them."""
    began: int = (row["request_time"] - _EPOCH) // timedelta(microseconds=1)
    return began * 1000 + int(after_ms * 1_000_000)


def _content(row: Row, config: GatewayConfig) -> dict[str, str]:
    """Question and answer, where they may be told and the format is one of messages."""
    if not config.tracing.content:
        return {}
    asked, answered = _read(row.get("request_json")), _read(row.get("response_json"))
    messages = asked.get("messages")
    answers = [choice.get("message") for choice in _dicts(answered.get("choices"))] or [answered]
    found = {}
    if told := [(str(one.get("role", "")), _text(one.get("content"))) for one in _dicts(messages)]:
        found["gen_ai.input.messages"] = said(told)
    if told := [("assistant", _text(one.get("content"))) for one in _dicts(answers) if one.get("content")]:
        found["gen_ai.output.messages"] = said(told)
    return found


def _read(body: str | None) -> dict[str, Any]:
    """A logged body; one that was cut is no JSON any more."""
    try:
        value = orjson.loads(body or "{}")
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(content: Any) -> str:
    """A message's text; pictures and calls of tools are left out."""
    if isinstance(content, str):
        return content
    return "".join(str(part["text"]) for part in _dicts(content) if isinstance(part.get("text"), str))
