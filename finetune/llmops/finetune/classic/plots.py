"""Plots as SVG text, for reports that open anywhere: bars, lines, and the summary of SHAP values.

No library and no script in it. Colours are one accent and greys, so that a plot reads in print and without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

_ACCENT, _OTHER, _GREY = "#1b64b8", "#c2410c", "#6b7280"
_WIDTH, _LEFT, _ROW = 720, 180, 26
Floats = npt.NDArray[np.float64]


def bars(title: str, values: Mapping[str, float], *, form: str = ".3f") -> str:
    """A bar a name; negative ones to the left."""
    largest = max((abs(value) for value in values.values()), default=0.0) or 1.0
    room = _WIDTH - _LEFT - 80
    zero = _LEFT + (room / 2 if min(values.values(), default=0) < 0 else 0)
    scale = (room / 2 if zero > _LEFT else room) / largest
    drawn = []
    for place, (name, value) in enumerate(values.items()):
        top = 40 + place * _ROW
        width = abs(value) * scale
        left = zero if value >= 0 else zero - width
        colour = _ACCENT if value >= 0 else _OTHER
        drawn += [
            _text(_LEFT - 8, top + 13, name, anchor="end"),
            f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="18" fill="{colour}"/>',
            _text(zero + max(value, 0) * scale + 6, top + 13, f"{value:{form}}", colour=_GREY),
        ]
    return _svg(title, drawn, 50 + len(values) * _ROW)


def lines(title: str, names: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> str:
    """A line a series over the same names, from 0 to the largest value."""
    points = [value for values in series.values() for value in values if value is not None]
    largest = max(points, default=1.0) or 1.0
    left, right, top, bottom = 60, _WIDTH - 160, 40, 240
    step = (right - left) / max(1, len(names) - 1)
    drawn = [_text(left - 6, bottom, "0", anchor="end"), _text(left - 6, top + 6, f"{largest:.3g}", anchor="end")]
    drawn.append(f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="{_GREY}"/>')
    for place, name in enumerate(names):
        drawn.append(_text(left + place * step, bottom + 18, name, anchor="middle", colour=_GREY))
    for number, (name, values) in enumerate(series.items()):
        path = [
            f"{left + place * step:.1f},{bottom - (bottom - top) * value / largest:.1f}"
            for place, value in enumerate(values)
            if value is not None
        ]
        colour, dash = (_ACCENT, _OTHER, _GREY)[number % 3], f"{6 - number % 3 * 2} {number % 3 * 3}"
        drawn.append(
            f'<polyline points="{" ".join(path)}" fill="none" stroke="{colour}" stroke-width="2"'
            f' stroke-dasharray="{dash}"/>'
        )
        drawn.append(_text(right + 10, top + 10 + number * 20, name, colour=colour))
    return _svg(title, drawn, 280)


def summary(title: str, names: Sequence[str], contributions: Floats, values: Floats, *, most: int = 400) -> str:
    """SHAP values of many rows, an input a line, the weightiest first; darker where the input's value is higher.

    Args:
        contributions: rows x inputs, in log-odds.
        values: the inputs' values, of the same shape; a missing one is grey.
        most: rows drawn, evenly picked.
    """
    picked = np.linspace(0, len(contributions) - 1, min(most, len(contributions))).astype(int)
    order = np.argsort(-np.abs(contributions).mean(axis=0), kind="stable")
    shown = contributions[picked]
    reach = float(np.abs(shown).max()) or 1.0
    centre, scale = _LEFT + (_WIDTH - _LEFT - 20) / 2, (_WIDTH - _LEFT - 40) / 2 / reach
    height = 60 + len(names) * _ROW
    drawn = [f'<path d="M{centre:.1f} 34V{height - 26}" stroke="{_GREY}" stroke-dasharray="2 3"/>']
    jitter = np.random.default_rng(0).uniform(-8, 8, len(picked))
    for line, column in enumerate(order):
        middle = 48 + line * _ROW
        drawn.append(_text(_LEFT - 8, middle + 4, names[column], anchor="end"))
        ranks = _ranks(values[picked, column])
        for place, (value, rank) in enumerate(zip(shown[:, column], ranks, strict=True)):
            look = (
                f'fill="{_GREY}" opacity=".3"'
                if np.isnan(rank)
                else f'fill="{_ACCENT}" opacity="{0.15 + 0.75 * rank:.2f}"'
            )
            drawn.append(f'<circle cx="{centre + value * scale:.1f}" cy="{middle + jitter[place]:.1f}" r="2" {look}/>')
    drawn.append(
        _text(centre, height - 8, "less likely fraud  ←  log-odds  →  more likely", anchor="middle", colour=_GREY)
    )
    return _svg(title, drawn, height)


def _ranks(values: Floats) -> Floats:
    """Where each value stands among the others, 0 to 1; NaN for a missing one."""
    known = ~np.isnan(values)
    ranks = np.full(len(values), np.nan)
    ordered = np.unique(values[known])
    if len(ordered):
        ranks[known] = np.searchsorted(ordered, values[known]) / max(1, len(ordered) - 1)
    return ranks


def _text(x: float, y: float, text: Any, *, anchor: str = "start", colour: str = "#111827") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(str(text))}</text>'


def _svg(title: str, drawn: Sequence[str], height: int) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" width="{_WIDTH}"'
    style = ' style="background:#fff" font-family="system-ui, sans-serif" font-size="12">'
    return "\n".join([head + style, f"<title>{escape(title)}</title>", _text(12, 20, title), *drawn, "</svg>"])
