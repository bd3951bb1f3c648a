"""The rows serving writes: one of the inference log for every exchange, one of the feedback table for every thumb.

It knows the columns and how to cut what is too long. Writing is the spool's, redaction `core.redact`'s.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from llmops.core.chain import Citation, PassageRef
from llmops.core.ids import digest
from llmops.serving.exchange import Exchange, Outcome, Question

SURFACE: Final = "serving"
TOO_LONG_REQUEST: Final = "MAX_REQUEST_SIZE_EXCEEDED"
TOO_LONG_RESPONSE: Final = "MAX_RESPONSE_SIZE_EXCEEDED"


def inference_row(exchange: Exchange) -> dict[str, Any]:
    """An exchange as its row of `inference_log`."""
    question, outcome = exchange.question, exchange.outcome
    request_json, request_cut = bounded(orjson.dumps(question.body).decode(), exchange.limits.log_bytes)
    response_json, response_cut = bounded(orjson.dumps(_response(outcome)).decode(), exchange.limits.log_bytes)
    codes = [code for code, cut in ((TOO_LONG_REQUEST, request_cut), (TOO_LONG_RESPONSE, response_cut)) if cut]
    return {
        **_identifiers(question),
        **_served(question, outcome),
        "status_code": outcome.status_code,
        "error_class": outcome.error_class,
        "latency_ms": round(outcome.latency_s * 1000, 3),
        "ttfb_ms": None if outcome.ttfb_s is None else round(outcome.ttfb_s * 1000, 3),
        "queue_ms": round(outcome.queue_s * 1000, 3),
        "input_tokens": outcome.done.usage.input_tokens if outcome.done else None,
        "output_tokens": outcome.done.usage.output_tokens if outcome.done else None,
        "sampling_fraction": 1.0,
        "request_json": request_json,
        "response_json": response_json,
        "logging_error_codes": codes,
        "tags": _tags(outcome),
    }


def feedback_row(feedback_id: str, request_id: str, source_id: str, given: dict[str, Any]) -> dict[str, Any]:
    """A requester's judgement as its row of `feedback`.

    `value_num` is the thumb (1 up, 0 down), `value_str` its name, `rationale` what the person wrote.
    """
    return {
        "feedback_id": feedback_id,
        "request_id": request_id,
        "event_time": now(),
        "source": "human",
        "source_id": source_id,
        "name": "thumb",
        "value_num": 1.0 if given["value"] == "up" else 0.0,
        "value_str": given["value"],
        "rationale": given.get("comment"),
        "reason": given.get("reason"),
        "talk_to_a_person": given.get("talk_to_a_person", False),
    }


def now() -> str:
    return iso(datetime.now(tz=UTC).timestamp())


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="microseconds")


def bounded(text: str, limit: int) -> tuple[str, bool]:
    """The text within `limit` bytes of UTF-8, and whether it was cut."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text, False
    return encoded[:limit].decode(errors="ignore"), True


def citation_json(citation: Citation) -> dict[str, Any]:
    """A citation as the API shows it."""
    value = asdict(citation)
    value.pop("type")
    return value


def _identifiers(question: Question) -> dict[str, Any]:
    context = question.context
    return {
        "invocation_id": question.invocation_id,
        "parent_invocation_id": None,
        "layer": "serving",
        "request_id": context.request_id,
        "client_request_id": question.client_request_id,
        "session_id": context.session_id,
        "unit_id_hash": digest(context.principal.id),
        "requester": context.principal.id,
        "request_time": iso(question.asked_at),
        "endpoint": question.endpoint,
    }


def _served(question: Question, outcome: Outcome) -> dict[str, Any]:
    loaded = question.loaded
    info = loaded.chain.version_info
    seq = None if outcome.generation is None else f"{outcome.generation}/{outcome.index_seq}"
    return {
        "asset_kind": "chain",
        "asset_name": str(loaded.ref.name),
        "asset_version": loaded.ref.version,
        "alias_at_serve": loaded.alias,
        "variant": question.context.variant,
        "assignment_p": 1.0,
        "prompt_version": _text(info.get("prompt_version")),
        "index_version": seq or _text(info.get("index_version")),
        "model_version": _text(info.get("model")),
    }


def _response(outcome: Outcome) -> dict[str, Any]:
    done = outcome.done
    return {
        "content": outcome.answer,
        "citations": [citation_json(citation) for citation in outcome.citations],
        "passages": [_passage(passage) for passage in outcome.passages],
        "refused": done.refused if done else None,
        "quoted": done.quoted if done else None,
        "finish_reason": done.finish_reason if done else None,
        "generation": outcome.generation,
        "index_seq": outcome.index_seq,
        "error": str(outcome.error) if outcome.error else None,
    }


def _passage(passage: PassageRef) -> dict[str, Any]:
    return {
        "uri": passage.uri,
        "start": passage.start,
        "end": passage.end,
        "page": passage.page,
        "score": passage.score,
    }


def _tags(outcome: Outcome) -> dict[str, str]:
    done = outcome.done
    if done is None:
        return {}
    tags = {"refused": done.refused, "quoted": done.quoted, "tokens_estimated": done.usage.estimated}
    return {name: "true" for name, value in tags.items() if value}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
