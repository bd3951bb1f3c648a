"""Plots of the card as SVG, made without a script: they print, and follow the page's colours by their classes.

Each stands beside a table of the same numbers. Every text is escaped: names of slices and labels come from data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _ROW, _LABELS, _FIGURES, _TOP = 560, 24, 190, 60, 8
_SQUARE, _EDGE = 240, 34
_MOST_CHARS = 28


def bars(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """One metric by slice: a bar each, with its interval; a dash where it is not defined.

    Args:
        rows: `slice` (None: all rows), `side` where two are shown, `value`, `interval`.
    """
    ends = [end for row in rows for end in (row["interval"] or [row["value"]]) if end is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    high = high if high > low else low + 1.0
    room = _WIDTH - _LABELS - _FIGURES

    def x(value: float) -> float:
        return float(_LABELS + (value - low) / (high - low) * room)

    pieces = [f'<line class="axis" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{_TOP}" y2="{_TOP + _ROW * len(rows)}"/>']
    for place, row in enumerate(rows):
        pieces.append(_bar(row, _TOP + place * _ROW, x))
    return _svg(title, pieces, (_WIDTH, 2 * _TOP + _ROW * len(rows)))


def calibration(rows: Sequence[Mapping[str, float]]) -> str:
    """Predicted probability against the share that came true, in tenths; on the diagonal the two agree."""
    left, size = _EDGE, _SQUARE

    def place(score: float, share: float) -> tuple[float, float]:
        return left + score * size, _TOP + (1 - share) * size

    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    most = max((row["n"] for row in rows), default=1)
    points = [place(row["score"], row["share"]) for row in rows]
    pieces = [
        f'<rect class="frame" x="{left}" y="{_TOP}" width="{size}" height="{size}"/>',
        f'<line class="axis" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>',
        f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>',
    ]
    for row in rows:
        x, y = place(row["score"], row["share"])
        told = f"predicted {row['score']:.2f}, came true {row['share']:.2f}, {row['n']:,} rows"
        radius = 2 + 4 * (row["n"] / most) ** 0.5
        pieces.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{told}</title></circle>')
    for share in (0.0, 0.5, 1.0):
        x, y = place(share, share)
        pieces.append(f'<text x="{x:.1f}" y="{_TOP + size + 16}" text-anchor="middle">{share:g}</text>')
        pieces.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{share:g}</text>')
    return _svg("Calibration", pieces, (left + size + _TOP, size + 2 * _TOP + 20))


def _bar(row: Mapping[str, Any], y: float, x: Any) -> str:
    name = row["slice"] or "all rows"
    if row.get("side"):
        name = f"{row['side']}: {name}"
    middle, value = y + _ROW / 2, row["value"]
    label = f'<text x="{_LABELS - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(_short(name))}</text>'
    shown = "–" if value is None else f"{value:.4g}"
    figure = f'<text x="{_WIDTH - _FIGURES + 8}" y="{middle + 4:.1f}">{shown}</text>'
    if value is None:
        return label + figure
    start, end = sorted((x(0.0), x(value)))
    kind = "bar" if row.get("side") != "champion" else "bar other"
    drawn = f'<rect class="{kind}" x="{start:.1f}" y="{y + 5:.1f}" width="{end - start:.1f}" height="{_ROW - 10}"/>'
    if row["interval"]:
        low, high = (x(one) for one in row["interval"])
        top = middle - 4
        line = f"M{low:.1f} {top}v8M{low:.1f} {middle}H{high:.1f}M{high:.1f} {top}v8"
        drawn += f'<path class="interval" d="{line}"/>'
    return f"<g><title>{escape(name)}: {shown}, {row['n']:,} rows</title>{label}{drawn}{figure}</g>"


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else text[: _MOST_CHARS - 1] + "…"


def _svg(title: str, pieces: Sequence[str], size: tuple[float, float]) -> str:
    wide, tall = size
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {wide:.0f} {tall:.0f}" width="{wide:.0f}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(pieces)}</svg>'
    )
