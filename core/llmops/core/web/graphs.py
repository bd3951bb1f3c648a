"""A graph of steps as SVG made on the server: each step below those it needs, each a link, told apart by word and mark.

Knows names, marks and arrows. It needs no script and follows the page's colours by its classes, as `plots` do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH = 420
TALL, GAP, EDGE = 42, 26, 8
_LETTER = 9.0
_SMALL_LETTER = 7.2


@dataclass(frozen=True)
class Step:
    """One step: its name, what is said beneath it, and the class of its mark (`good`, `bad`, `wait`, `off`)."""

    name: str
    note: str
    grade: str
    href: str
    needs: tuple[str, ...] = ()


def step_graph(title: str, steps: Sequence[Step]) -> Markup:
    """The steps in layers. One that needs an unknown step, or itself in a circle, stands as if it did not."""
    known = {step.name: step for step in steps}
    depth = _depths(known)
    layers = _ordered(steps, depth)
    places = _places(layers)
    tall = EDGE * 2 + len(layers) * TALL + max(len(layers) - 1, 0) * GAP
    pieces = [
        _arrow(places[need], places[step.name])
        for step in steps
        for need in step.needs
        if need in known and depth[need] < depth[step.name]
    ]
    pieces += [_box(step, *places[step.name]) for step in steps]
    head = f'<svg class="plot graph" viewBox="0 0 {WIDTH} {tall}" role="group" aria-label="{escape(title)}">'
    return Markup(f"{head}{''.join(pieces)}</svg>")  # noqa: S704 - every text in it was escaped


def _depths(known: Mapping[str, Step]) -> dict[str, int]:
    """How many steps at most lie above each; as many rounds as there are steps, so that a circle ends."""
    depth = dict.fromkeys(known, 0)
    for _ in known:
        for name, step in known.items():
            above = [depth[need] + 1 for need in step.needs if need in known and need != name]
            depth[name] = min(max(above, default=0), len(known) - 1)
    return depth


def _ordered(steps: Sequence[Step], depth: Mapping[str, int]) -> list[list[str]]:
    """Layers from the top, in each the steps near what they need."""
    layers: list[list[str]] = []
    column: dict[str, float] = {}
    for level in sorted(set(depth.values())):
        layer = [step for step in steps if depth[step.name] == level]
        above = {step.name: [column[need] for need in step.needs if need in column] for step in layer}
        layer.sort(key=lambda step: sum(above[step.name]) / len(above[step.name]) if above[step.name] else 0.5)
        for place, step in enumerate(layer):
            column[step.name] = (place + 0.5) / len(layer)
        layers.append([step.name for step in layer])
    return layers


def _places(layers: Sequence[Sequence[str]]) -> dict[str, tuple[float, float, float]]:
    """Middle, top and width of each box."""
    places = {}
    for level, layer in enumerate(layers):
        room = (WIDTH - 2 * EDGE) / len(layer)
        for place, name in enumerate(layer):
            middle, top = EDGE + (place + 0.5) * room, EDGE + level * (TALL + GAP)
            places[name] = (middle, float(top), min(room - EDGE, 240.0))
    return places


def _arrow(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    x1, y1, x2, y2 = start[0], start[1] + TALL, end[0], end[1]
    bend = (y2 - y1) / 2
    return (
        f'<path class="arrow" d="M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} '
        f'{x2:.1f} {y2 - 5:.1f}"/>'
        f'<path class="arrow-head" d="M{x2 - 4:.1f} {y2 - 7:.1f}L{x2:.1f} {y2:.1f}L{x2 + 4:.1f} {y2 - 7:.1f}Z"/>'
    )


def _box(step: Step, middle: float, top: float, wide: float) -> str:
    left = middle - wide / 2
    told = f"{step.name}: {step.note}"
    name = _cut(step.name, (wide - 30) / _LETTER)
    note = _cut(step.note, (wide - 30) / _SMALL_LETTER)
    mark = f'<circle class="mark-{escape(step.grade)}" cx="{left + 13:.1f}" cy="{top + 16:.1f}" r="4.5"/>'
    if step.grade == "bad":
        mark = f'<rect class="mark-bad" x="{left + 9:.1f}" y="{top + 12:.1f}" width="8" height="8"/>'
    return (
        f'<a href="{escape(step.href)}" aria-label="{escape(told)}"><title>{escape(told)}</title>'
        f'<rect class="box" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{TALL}" rx="8"/>{mark}'
        f'<text class="name" x="{left + 24:.1f}" y="{top + 20:.1f}">{escape(name)}</text>'
        f'<text class="tick" x="{left + 24:.1f}" y="{top + 34:.1f}">{escape(note)}</text></a>'
    )


def _cut(text: str, letters: float) -> str:
    most = max(int(letters), 1)
    return text if len(text) <= most else f"{text[: most - 1]}…"
