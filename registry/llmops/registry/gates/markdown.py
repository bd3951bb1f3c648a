"""The card as Markdown, for reviews and repositories. Whatever comes from a version or from data is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~&$#@])")
_LINK = re.compile(r"(?i)(?<=www)\.|:(?=//)")


def render(card: Mapping[str, Any]) -> str:
    """The whole card."""
    version = card["version"]
    parts = [
        f"# {text(card['ref'])}",
        table(("what", "value"), [("description", version["description"] or "none"), *facts(card)]),
    ]
    if card["statements"]:
        parts += ["## Statements", table(("what", "value"), card["statements"].items())]
    for report in card["reports"]:
        parts += _report(report)
    parts += ["## Evidence", table(("evidence", "gate", "verdict", "by", "ended"), evidence(card))]
    parts += ["## Approvals", table(("group", "decision", "by", "at", "comment"), approvals(card))]
    parts += ["## Lineage", table(("upstream", "relation", "downstream"), lineage(card))]
    return "\n\n".join(part for part in parts if part) + "\n"


def facts(card: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What the version is, as rows."""
    version = card["version"]
    rows = [(key, version[key]) for key in ("kind", "digest", "artifact_digest", "created_at", "created_by")]
    rows.append(("aliases", ", ".join(version["aliases"])))
    rows += [(f"tag {key}", value) for key, value in version["tags"].items() if key not in card["statements"]]
    return rows + [(f"parameter {key}", value) for key, value in version["params"].items()]


def evidence(card: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [(e["evidence_id"], e["gate"], e["verdict"], e["actor"], e["ended"]) for e in card["evidence"]]


def approvals(card: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(a.get(key, "") for key in ("group", "decision", "by", "at", "comment")) for a in card["approvals"]]


def lineage(card: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(edge.get(key, "") for key in ("upstream", "relation", "downstream")) for edge in card["lineage"]]


def findings(report: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """One row a finding, what did not pass first."""
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    rows = sorted(report["findings"], key=lambda finding: order[finding["verdict"]])
    return [
        (f["verdict"], f["check"], f.get("slice", "all"), f["what"], number(f.get("measured")), f.get("limit", ""))
        for f in rows
    ]


def measured(report: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """One row a metric and slice."""
    return [
        (m["metric"], m.get("side", ""), m["slice"] or "all", m["n"], number(m["value"]), span(m["interval"]))
        for m in report["figures"].get("metrics", ())
    ]


def data(report: Mapping[str, Any]) -> str:
    """Which rows were looked at, in a sentence."""
    found = report["data"]
    if found is None:
        return ""
    where = f" where {found['filter']}" if found["filter"] else ""
    return f"{found['rows']:,} rows of {found['table']} (version {found['version']}){where}, digest {found['digest']}"


def number(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else value


def span(ends: Sequence[float] | None) -> str:
    return f"{ends[0]:.4g} to {ends[1]:.4g}" if ends else ""


def text(value: Any) -> str:
    """Escaped, on one line, for a cell or inside a line: no word of a version becomes a link, HTML or another cell."""
    line = _SPECIAL.sub(r"\\\1", " ".join(str("" if value is None else value).split()))
    return _LINK.sub(lambda match: f"&#{ord(match.group())};", line)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(text(cell) for cell in row)} |" for row in rows]
    if not lines:
        return "*None.*"
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *lines])


def _report(report: Mapping[str, Any]) -> list[str]:
    beside = report["baseline"] or (report["heuristic"] or {}).get("kind")
    parts = [f"## {report['gate'].capitalize()}: {report['verdict']}"]
    if beside:
        parts.append(f"Compared with {text(beside)}.")
    parts += [f"Data: {text(data(report))}" if report["data"] else ""]
    parts += [table(("verdict", "check", "slice", "what", "measured", "limit"), findings(report))]
    if report["figures"].get("metrics"):
        parts += ["### Metrics", table(("metric", "side", "slice", "rows", "value", "interval"), measured(report))]
    if confusion := report["figures"].get("confusion"):
        rows = [(label, *counts) for label, counts in zip(confusion["classes"], confusion["counts"], strict=True)]
        head = ("label \\ predicted", *(text(label) for label in confusion["classes"]))
        parts += ["### Confusion", table(head, rows)]
    return parts
