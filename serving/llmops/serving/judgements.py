"""What readers thought of the answers: feedback joined with the question, the answer and the version that gave it.

It reads the log tables, rows still on their way included, and knows nothing of how they are shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Protocol

from llmops.serving.record import TALK, THUMB

ASKED_AT_ONCE = 500
REQUEST_COLUMNS = (
    "invocation_id",
    "request_id",
    "endpoint",
    "session_id",
    "asset_name",
    "asset_version",
    "prompt_version",
    "index_version",
    "request_json",
    "response_json",
)


class Rows(Protocol):
    """The lake, as far as this module reads it."""

    def rows(
        self,
        table: str,
        where: dict[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        include_pending: bool = True,
    ) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Wanted:
    """Which judgements: None means any. Without `every`, one that its giver has superseded is left out."""

    since: datetime | None = None
    value: str | None = None
    reason: str | None = None
    endpoint: str | None = None
    talk: bool = False
    every: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class Judgement:
    """One thumb with what it judges. A request whose row was lost has no question."""

    feedback_id: str
    request_id: str
    time: datetime
    value: str
    reason: str | None
    comment: str | None
    talk_to_a_person: bool
    requester: str | None
    endpoint: str | None = None
    session_id: str | None = None
    asset: str | None = None
    version: str | None = None
    prompt_version: str | None = None
    index_version: str | None = None
    question: str | None = None
    answer: str | None = None
    citations: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "time": self.time.isoformat()}


def read_judgements(lake: Rows, feedback: str, inference_log: str, wanted: Wanted) -> list[Judgement]:
    """The judgements asked for, newest first."""
    rows = lake.rows(feedback, where={"source": "human"})
    talks = {row["request_id"] for row in rows if row["name"] == TALK}
    thumbs = [row for row in rows if row["name"] == THUMB]
    if not wanted.every:
        thumbs = _standing(thumbs)
    thumbs = [row for row in thumbs if _fits(row, talks, wanted)]
    thumbs.sort(key=lambda row: row["event_time"], reverse=True)
    found = []
    for judgement in _joined(lake, inference_log, thumbs, talks):
        if wanted.endpoint is None or judgement.endpoint == wanted.endpoint:
            found.append(judgement)
            if wanted.limit is not None and len(found) >= wanted.limit:
                break
    return found


def _standing(thumbs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each requester's thumbs for one request, the last."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(thumbs, key=lambda row: (row["event_time"], row["feedback_id"])):
        last[row["request_id"], row["source_id"]] = row
    return list(last.values())


def _fits(row: dict[str, Any], talks: set[str], wanted: Wanted) -> bool:
    return (
        (wanted.since is None or row["event_time"] >= wanted.since)
        and (wanted.value is None or _value(row) == wanted.value)
        and (wanted.reason is None or row["value_str"] == wanted.reason)
        and (not wanted.talk or row["request_id"] in talks)
    )


def _joined(lake: Rows, inference_log: str, thumbs: Sequence[dict[str, Any]], talks: set[str]) -> Iterator[Judgement]:
    for start in range(0, len(thumbs), ASKED_AT_ONCE):
        some = thumbs[start : start + ASKED_AT_ONCE]
        ids = sorted({row["request_id"] for row in some})
        where = {"request_id": ids, "layer": "serving"}
        requests = {row["request_id"]: row for row in lake.rows(inference_log, where, list(REQUEST_COLUMNS))}
        for row in some:
            yield _judgement(row, requests.get(row["request_id"]), row["request_id"] in talks)


def _judgement(row: dict[str, Any], request: dict[str, Any] | None, talk: bool) -> Judgement:
    judged = {} if request is None else _judged(request)
    return Judgement(
        feedback_id=row["feedback_id"],
        request_id=row["request_id"],
        time=row["event_time"],
        value=_value(row),
        reason=row["value_str"],
        comment=row["rationale"],
        talk_to_a_person=talk,
        requester=row["source_id"],
        **judged,
    )


def _judged(request: dict[str, Any]) -> dict[str, Any]:
    asked, answered = _json(request["request_json"]), _json(request["response_json"])
    return {
        "endpoint": request["endpoint"],
        "session_id": request["session_id"],
        "asset": request["asset_name"],
        "version": request["asset_version"],
        "prompt_version": request["prompt_version"],
        "index_version": request["index_version"],
        "question": _question(asked.get("messages", [])),
        "answer": answered.get("content"),
        "citations": answered.get("citations", []),
    }


def _question(messages: Sequence[dict[str, Any]]) -> str | None:
    content = messages[-1]["content"] if messages else None
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content


def _json(text: str | None) -> dict[str, Any]:
    """A logged body; one that was cut at its limit is no JSON any more and gives nothing."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _value(row: dict[str, Any]) -> str:
    return "up" if row["value_num"] == 1.0 else "down"
