"""Plots as SVG made on the server: they need no script, print, and follow the page's colours by their classes.

A plot is about as wide as a phone, so that its letters keep their size; pages put several side by side. Each stands
beside a table of the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 64, 8, 10, 24
LANE = 24
Shown = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """One series of a line plot. None: nothing was measured then."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Bar:
    """One bar, with what is shown of it when pointed at and where it leads."""

    label: str
    value: float
    told: str
    href: str


@dataclass(frozen=True)
class Span:
    """One stretch of time in the lane of `row`; `now` where it still lasts."""

    row: str
    start: float
    end: float
    told: str
    href: str
    now: bool = False


def line_plot(title: str, labels: Sequence[str], lines: Sequence[Line], shown: Shown) -> Markup:
    """Lines over equal steps of time; at most three, told apart by dash as well as by colour."""
    top = nice_top(max((value for line in lines for value in line.values if value is not None), default=0.0))
    steps = max(len(labels) - 1, 1)

    def x(place: int) -> float:
        return LEFT + place * (WIDTH - LEFT - RIGHT) / steps

    pieces = [_grid(top, shown)]
    for number, line in enumerate(lines):
        for run in _runs(line.values):
            points = " ".join(f"{x(place):.1f},{_y(value, top):.1f}" for place, value in run)
            tag = f'<polyline class="line line-{number}" points="{points}"/>'
            if len(run) == 1:
                place, value = run[0]
                tag = f'<circle class="dot line-{number}" cx="{x(place):.1f}" cy="{_y(value, top):.1f}" r="2"/>'
            pieces.append(tag)
    pieces.append(_ends(labels))
    return _svg(title, pieces, "img")


def bar_plot(title: str, bars: Sequence[Bar], shown: Shown) -> Markup:
    """A bar for each step of time, each a link to its rows."""
    top = nice_top(max((bar.value for bar in bars), default=0.0))
    room = (WIDTH - LEFT - RIGHT) / max(len(bars), 1)
    wide = max(1.0, min(room * 0.72, 42.0))
    pieces = [_grid(top, shown)]
    for place, bar in enumerate(bars):
        x, y = LEFT + place * room + (room - wide) / 2, _y(bar.value, top)
        tall = max(HEIGHT - BOTTOM - y, 1.5 if bar.value else 0.0)
        pieces.append(
            f'<a href="{escape(bar.href)}" aria-label="{escape(bar.told)}"><title>{escape(bar.told)}</title>'
            f'<rect class="hit" x="{LEFT + place * room:.1f}" y="{TOP}" width="{room:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>'
            f'<rect class="bar" x="{x:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}" '
            f'rx="{min(2.0, wide / 2):.1f}"/></a>'
        )
    pieces.append(_ends([bar.label for bar in bars]))
    return _svg(title, pieces, "group")


def span_plot(title: str, spans: Sequence[Span], shown: Shown) -> Markup:
    """Stretches of time, a lane for each row in the order in which they first come, each a link."""
    lanes = list(dict.fromkeys(span.row for span in spans))
    first, last = min(span.start for span in spans), max(span.end for span in spans)
    scale = (WIDTH - LEFT - RIGHT) / max(last - first, 1e-9)
    tall = TOP + LANE * len(lanes) + BOTTOM
    pieces = []
    for place, lane in enumerate(lanes):
        y = TOP + LANE * place
        pieces.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y + LANE}" y2="{y + LANE}"/>')
        pieces.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 16}" text-anchor="end">{escape(lane[:9])}</text>')
    for span in spans:
        x, y = LEFT + (span.start - first) * scale, TOP + LANE * lanes.index(span.row)
        wide = max((span.end - span.start) * scale, 3.0)
        x = min(x, WIDTH - RIGHT - wide)
        pieces.append(
            f'<a href="{escape(span.href)}" aria-label="{escape(span.told)}"><title>{escape(span.told)}</title>'
            f'<rect class="hit" x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{LANE}"/>'
            f'<rect class="span{" now" if span.now else ""}" x="{x:.1f}" y="{y + 5}" width="{wide:.1f}" height="14" '
            f'rx="{min(3.0, wide / 2):.1f}"/></a>'
        )
    pieces.append(_ends([shown(first), shown(last)], tall))
    return _svg(title, pieces, "group", tall)


def interval_plot(title: str, ends: tuple[float, float], effect: float | None, marks: Mapping[str, float]) -> Markup:
    """An effect with its confidence interval, beside what it is compared with; a `mark` is a name and a place.

    The numbers stand in the text beside it.
    """
    low, high = ends
    places = [low, high, *marks.values(), *([] if effect is None else [effect])]
    least, most = min(places), max(places)
    room = (most - least) * 0.08 or abs(most) * 0.1 or 1.0
    wide = most - least + 2 * room

    def x(value: float) -> str:
        return f"{RIGHT + (value - least + room) / wide * (WIDTH - 2 * RIGHT):.1f}"  # a quotient: `wide` may be tiny

    pieces = [f'<line class="grid" x1="{RIGHT}" x2="{WIDTH - RIGHT}" y1="34" y2="34"/>']
    for number, (name, place) in enumerate(marks.items()):
        anchor = "start" if place < least + (most - least) * 0.2 else "end" if place > most * 0.9 else "middle"
        pieces.append(f'<line class="mark mark-{number}" x1="{x(place)}" x2="{x(place)}" y1="18" y2="50"/>')
        pieces.append(
            f'<text class="tick" x="{x(place)}" y="{12 if number else 63}" text-anchor="{anchor}">{escape(name)}</text>'
        )
    pieces.append(f'<line class="interval" x1="{x(low)}" x2="{x(high)}" y1="34" y2="34"/>')
    pieces += [f'<line class="interval" x1="{x(end)}" x2="{x(end)}" y1="28" y2="40"/>' for end in ends]
    if effect is not None:
        pieces.append(f'<circle class="dot" cx="{x(effect)}" cy="34" r="5"/>')
    return _svg(title, pieces, "img", 68)


def share_bar(share: float | None, warns: bool = False) -> Markup:
    """A thin bar beside the number that says the same; one of a ceiling `warns` as it fills."""
    part = max(0.0, min(share or 0.0, 1.0))
    width = part * 100
    grade = "fine" if not warns or part < 0.8 else "high" if part < 1.0 else "full"
    return Markup(  # noqa: S704 - numbers and fixed words only
        '<svg class="share" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="share-room" width="100" height="6"/>'
        f'<rect class="share-{grade}" width="{width:.2f}" height="6"/></svg>'
    )


def nice_top(most: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that is not below; 1 where there is nothing."""
    if most <= 0 or not math.isfinite(most):
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= most * (1 - 1e-9))


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """The stretches without a gap."""
    runs: list[list[tuple[int, float]]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((place, value))
    return [run for run in runs if run]


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(value / top, 1.0)


def _grid(top: float, shown: Shown) -> str:
    pieces = []
    for part in (0.0, 0.5, 1.0):
        y = _y(part * top, top)
        pieces.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        pieces.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(shown(part * top))}</text>'
        )
    return "".join(pieces)


def _ends(labels: Sequence[str], tall: float = HEIGHT) -> str:
    """The first and the last step's names; what is between follows."""
    if not labels:
        return ""
    y = tall - 6
    first = f'<text class="tick" x="{LEFT}" y="{y}">{escape(labels[0])}</text>'
    if len(labels) == 1:
        return first
    return f'{first}<text class="tick" x="{WIDTH - RIGHT}" y="{y}" text-anchor="end">{escape(labels[-1])}</text>'


def _svg(title: str, pieces: Sequence[str], role: str, tall: float = HEIGHT) -> Markup:
    head = f'<svg class="plot" viewBox="0 0 {WIDTH} {tall:g}" role="{role}" aria-label="{escape(title)}">'
    return Markup(f"{head}{''.join(pieces)}</svg>")  # noqa: S704 - every text in it was escaped
