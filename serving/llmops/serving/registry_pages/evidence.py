"""What the page of one evidence record shows, and how a record is drawn wherever it is met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
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
    shown = partial(number, signed=not is_ratio(record))
    title = f"Effect {shown(record.effect)}, interval {shown(record.ci_low)} to {shown(record.ci_high)}"
    marks = {"no difference": 1.0 if is_ratio(record) else 0.0}
    if (line := threshold(record)) is not None:
        marks[line[0]] = line[1]
    return plots.interval_plot(title, (record.ci_low, record.ci_high), record.effect, marks)


def threshold(record: Evidence) -> tuple[str, float] | None:
    """What the interval is held against besides no difference: by how much a version may be worse, or must be better.

    Given by the gate's specification where the record has one; None where that is no difference itself.
    """
    params = record.method.params
    if is_ratio(record):
        most = params.get("margin")
        return ("margin", float(most)) if isinstance(most, int | float) and most != 1 else None
    spec, found = _section(params, "spec"), _section(params, "effect")
    harm = 1.0 if found.get("bad") == "high" else -1.0
    if spec.get("claim") == "better":
        name, value, side = "least gain", spec.get("min_effect"), -harm
    else:
        name, value, side = "margin", spec.get("margin"), harm
    if not isinstance(value, int | float) or isinstance(value, bool) or not value:
        return None
    return name, side * abs(float(value))


def _section(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of the parameters; all of them where they have no parts."""
    part = params.get(name)
    return part if isinstance(part, Mapping) else params


def is_ratio(record: Evidence) -> bool:
    """Whether the effect is a ratio, as of rates of rare events, and not a difference."""
    told = record.method.params.get("effect", "")
    return "ratio" in str(told.get("effect", "") if isinstance(told, Mapping) else told).split()


def findings(record: Evidence) -> list[Mapping[str, Any]]:
    """What a gate looked at one by one, where the record tells."""
    told = record.method.params.get("findings")
    return [one for one in told if isinstance(one, Mapping)] if isinstance(told, list) else []


def number(value: float | None, *, signed: bool = True) -> str:
    """An effect; a difference with its sign."""
    return "–" if value is None else f"{value:+.4g}" if signed else f"{value:.4g}"
