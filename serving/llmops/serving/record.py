"""The rows serving writes: one of the inference log for every exchange, one of the feedback table for every thumb.

It knows the columns. Writing, cutting of what is too long and redaction are the spool's.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid5

import orjson

from llmops.core.chain import Citation, PassageRef, Step
from llmops.core.ids import digest
from llmops.core.tracing import trace_id
from llmops.serving.characters import whole_characters
from llmops.serving.exchange import Outcome, Question

THUMB: Final = "thumb"
TALK: Final = "talk_to_a_person"


@dataclass(frozen=True)
class Thumb:
    """A requester's judgement of one answer."""

    feedback_id: str
    request_id: str
    value: Literal["up", "down"]
    reason: str | None = None
    comment: str | None = None
    talk_to_a_person: bool = False


def inference_row(question: Question, outcome: Outcome) -> dict[str, Any]:
    """An exchange as its row of `inference_log`."""
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
        "request_json": encode(question.body).decode(),
        "response_json": encode(_response(outcome)).decode(),
        "tags": _tags(outcome),
    }


def feedback_rows(thumb: Thumb, source_id: str) -> list[dict[str, Any]]:
    """A requester's judgement as rows of `feedback`: the thumb, and the wish to talk to a person where there is one.

    The thumb is `value_num` 1 or 0, its reason `value_str`, the comment `rationale`. The second row's id is derived
    from the first's, so that a repeated call makes the same rows.
    """
    row = {
        "feedback_id": thumb.feedback_id,
        "request_id": thumb.request_id,
        "event_time": iso(time.time()),
        "source": "human",
        "source_id": source_id,
        "name": THUMB,
        "value_num": 1.0 if thumb.value == "up" else 0.0,
        "value_str": thumb.reason,
        "rationale": thumb.comment,
    }
    if not thumb.talk_to_a_person:
        return [row]
    wish = {**row, "feedback_id": talk_id(thumb.feedback_id), "name": TALK, "value_num": 1.0, "value_str": None}
    return [row, {**wish, "rationale": None}]


def talk_id(feedback_id: str) -> str:
    """The id of the row that says: whoever gave this feedback wants to talk to a person."""
    return str(uuid5(UUID(feedback_id), TALK))


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="microseconds")


def encode(value: Any) -> bytes:
    """JSON on one line. Half a surrogate pair, which is no text, becomes U+FFFD."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return whole_characters(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode()


def citation_json(citation: Citation) -> dict[str, Any]:
    """A citation as the API shows it."""
    value = asdict(citation)
    value.pop("type")
    if value["index"] is None:
        value.pop("index")
    return value


def step_json(step: Step) -> dict[str, Any]:
    """A search as the API shows it."""
    shown = {"number": step.number, "query": step.query, "passages": step.passages}
    return {**shown, "filters": step.filters} if step.filters else shown


def _identifiers(question: Question) -> dict[str, Any]:
    context = question.context
    return {
        "invocation_id": question.context.invocation_id,
        "parent_invocation_id": None,
        "layer": "serving",
        "request_id": context.request_id,
        "trace_id": trace_id(context.traceparent),
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
    seq = None if not outcome.generation else f"{outcome.generation}/{outcome.index_seq}"
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
        "steps": [step_json(step) for step in outcome.steps],
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
