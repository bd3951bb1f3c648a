"""What the page of one evidence record shows, and how a record is drawn wherever it is met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from markupsafe import Markup

from llmops.core.errors import NotFoundError
from llmops.core.web import plots
from llmops.registry.evidence import Evidence, Filed
from llmops.registry.promotion.history import Entry
from llmops.serving.registry_pages.desk import Asked

_MOST_CITED = 50


@dataclass(frozen=True)
class EvidencePage:
    """One record, what it rests on, and what rests on it."""

    filed: Filed
    parents: list[Filed]
    missing: list[str]
    cited: list[Entry]

    @property
    def record(self) -> Evidence | None:
        return self.filed.record

    @property
    def raw(self) -> str:
        """The record's text as it lies there, in lines."""
        try:
            return orjson.dumps(orjson.loads(self.filed.body), option=orjson.OPT_INDENT_2).decode()
        except orjson.JSONDecodeError:  # somebody changed it into no JSON at all
            return self.filed.body

    def as_json(self) -> dict[str, Any]:
        return {
            **self.filed.as_json(),
            "parent_records": [parent.as_json() for parent in self.parents],
            "cited_by": [entry.as_json() for entry in self.cited],
        }


def evidence_page(asked: Asked) -> EvidencePage:
    """One record by its id or the beginning of it.

    Raises:
        NotFoundError: there is none that may be known of.
    """
    filed = asked.registry.filed_evidence(asked.params["evidence_id"].lower())
    record = filed.record
    parents, missing = [], []
    for identifier in record.parents if record else ():
        try:
            parents.append(asked.registry.filed_evidence(identifier))
        except NotFoundError:
            missing.append(identifier)
    story = asked.promoter.history(filed.name)
    cited = [e for e in story if e.kind != "evidence" and any(p.evidence_id == filed.evidence_id for p in e.proofs)]
    return EvidencePage(filed, parents, missing, cited[:_MOST_CITED])


def interval(record: Evidence) -> Markup | None:
    """The effect with its interval as a plot; None where the record has none."""
    if record.ci_low is None or record.ci_high is None:
        return None
    title = f"Effect {number(record.effect)}, interval {number(record.ci_low)} to {number(record.ci_high)}"
    marks = {"no difference": 0.0}
    margin = margin_of(record.method.params)
    if margin:
        marks["margin"] = -margin
    return plots.interval_plot(title, (record.ci_low, record.ci_high), record.effect, marks)


def margin_of(params: Mapping[str, Any]) -> float | None:
    """By how much a version may be worse and still pass, where the method says so."""
    value = params.get("margin")
    return abs(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else None


def number(value: float | None) -> str:
    """An effect, with its sign."""
    return "–" if value is None else f"{value:+.4g}"
