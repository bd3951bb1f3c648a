"""The card as one HTML file that needs nothing else: no script, no font, no image from elsewhere, and is allowed none.

Whatever comes from a version or from data is escaped. Knows the card's JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from llmops.registry.gates import markdown, plots

_STYLE = """
:root { --paper: #faf8f4; --raised: #fff; --ink: #24211d; --soft: #625b51; --line: #e5dfd5; --accent: #17605c;
  --other: #8f877b; --pass: #1d6a2f; --fail: #a3271c; --open: #8a5200; color-scheme: light; }
@media (prefers-color-scheme: dark) { :root { --paper: #191816; --raised: #22211e; --ink: #ebe6dd; --soft: #aca498;
  --line: #37342f; --accent: #8accc4; --other: #7d766b; --pass: #8fd19e; --fail: #f3a097; --open: #f0c070;
  color-scheme: dark; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 400 1rem/1.55 ui-sans-serif, system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; } p { margin: .5rem 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .875rem; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; min-width: 4rem; } th { white-space: nowrap; color: var(--soft); font-weight: 500; }
td.pass, td.fail, td.inconclusive { white-space: nowrap; }
.pass { color: var(--pass); } .fail { color: var(--fail); } .inconclusive { color: var(--open); }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; max-width: 100%; }
svg { max-width: 100%; height: auto; font-size: 12px; } svg text { fill: var(--ink); }
.bar { fill: var(--accent); } .bar.other { fill: var(--other); } .axis { stroke: var(--other); stroke-dasharray: 3 3; }
.interval { stroke: var(--ink); fill: none; } .line { fill: none; stroke: var(--accent); stroke-width: 1.5; }
.dot { fill: var(--accent); } .frame { fill: none; stroke: var(--line); }
""".strip()
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(card: Mapping[str, Any]) -> str:
    """The whole page."""
    version = card["version"]
    parts = [f"<h1>{escape(card['ref'])}</h1>", f"<p>{escape(version['description']) or 'No description.'}</p>"]
    parts += [_table(("what", "value"), markdown.facts(card))]
    if card["statements"]:
        parts += ["<h2>Statements</h2>", _table(("what", "value"), card["statements"].items())]
    parts += [part for report in card["reports"] for part in _report(report)]
    parts += ["<h2>Evidence</h2>", _table(("evidence", "gate", "verdict", "by", "ended"), markdown.evidence(card))]
    parts += ["<h2>Approvals</h2>", _table(("group", "decision", "by", "at", "comment"), markdown.approvals(card))]
    parts += ["<h2>Lineage</h2>", _table(("upstream", "relation", "downstream"), markdown.lineage(card))]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(card['ref'])}</title><style>{_STYLE}</style></head><body><main>"
        f"{''.join(parts)}</main></body></html>\n"
    )


def _report(report: Mapping[str, Any]) -> list[str]:
    verdict = report["verdict"]
    beside = report["baseline"] or (report["heuristic"] or {}).get("kind")
    parts = [f'<h2>{escape(report["gate"].capitalize())}: <span class="{verdict}">{verdict}</span></h2>']
    if beside:
        parts.append(f"<p>Compared with {escape(str(beside))}.</p>")
    parts.append(f"<p>{escape(markdown.data(report))}</p>")
    head = ("verdict", "check", "slice", "what", "measured", "limit")
    parts.append(_table(head, markdown.findings(report), marked=True))
    return parts + _figures(report)


def _figures(report: Mapping[str, Any]) -> list[str]:
    figures = report["figures"]
    parts = []
    if metrics := figures.get("metrics"):
        drawn = [
            f"<figure><h3>{escape(name)}</h3>{plots.bars(name, list(rows))}</figure>"
            for name, rows in groupby(metrics, key=lambda row: row["metric"])
        ]
        parts.append(f'<div class="plots">{"".join(drawn)}</div>')
        parts.append(_table(("metric", "side", "slice", "rows", "value", "interval"), markdown.measured(report)))
    if calibration := figures.get("calibration"):
        parts.append(f"<figure><h3>Calibration</h3>{plots.calibration(calibration)}</figure>")
        rows = [(f"{row['score']:.3f}", f"{row['share']:.3f}", row["n"]) for row in calibration]
        parts.append(_table(("predicted", "came true", "rows"), rows))
    if confusion := figures.get("confusion"):
        rows = [(label, *counts) for label, counts in zip(confusion["classes"], confusion["counts"], strict=True)]
        parts += ["<h3>Confusion</h3>", _table(("label \\ predicted", *confusion["classes"]), rows)]
    return parts


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, marked: bool = False) -> str:
    """A table; `marked` ones have a verdict in their first column."""
    lines = []
    for row in rows:
        kind = f' class="{escape(str(row[0]))}"' if marked else ""
        first, *others = (escape(str("" if cell is None else cell)) for cell in row)
        lines.append(f"<tr><td{kind}>{first}</td>{''.join(f'<td>{cell}</td>' for cell in others)}</tr>")
    if not lines:
        return "<p>None.</p>"
    named = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in head)
    return f'<div class="wide"><table><thead><tr>{named}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
