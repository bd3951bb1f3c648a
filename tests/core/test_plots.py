"""Plots as SVG: whatever is drawn lies inside the picture, every text is escaped, odd input ends in some picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from llmops.core.web import graphs, plots
from llmops.core.web.graphs import Step, step_graph

WORDS = st.text("ab<>&\"'ü é", max_size=12)
NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


def drawn(svg: str) -> ET.Element:
    """The picture, read as XML: an unescaped text would break it."""
    return ET.fromstring(svg)


def boxes(root: ET.Element, kind: str) -> list[tuple[float, float]]:
    """Left and right end of each rectangle of a class."""
    return [
        (float(one.attrib["x"]), float(one.attrib["x"]) + float(one.attrib["width"]))
        for one in root.iter("rect")
        if one.attrib.get("class", "").split(" ")[0] == kind
    ]


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e8), WORDS), min_size=1, max_size=20))
def test_a_span_lies_in_its_lane_and_in_the_picture(stretches: list[tuple[float, float, str]]) -> None:
    spans = [plots.Span(row, start, start + long, f"told {row!r}", "there") for start, long, row in stretches]
    root = drawn(plots.span_plot("Spans", spans, str))
    places = boxes(root, "span")
    assert len(places) == len(spans)
    for left, right in places:
        assert left >= plots.LEFT - 0.2
        assert right <= plots.WIDTH - plots.RIGHT + 0.2
    tall = float(root.attrib["viewBox"].split()[3])
    lanes = len({row for _, _, row in stretches})
    assert tall == plots.TOP + lanes * plots.LANE + plots.BOTTOM


def test_spans_stand_in_the_order_of_time_and_the_present_one_is_marked() -> None:
    spans = [plots.Span("v1", 0, 50, "first", "1"), plots.Span("v2", 50, 100, "second", "2", now=True)]
    svg = plots.span_plot("Spans", spans, str)
    (first_left, first_right), (second_left, _) = boxes(drawn(svg), "span")
    assert first_left < first_right
    assert abs(first_right - second_left) < 0.2
    assert svg.count('class="span now"') == 1


@given(NUMBERS, NUMBERS, st.none() | NUMBERS, st.dictionaries(WORDS, NUMBERS, max_size=2))
def test_an_interval_keeps_its_order_and_its_place(
    one: float, other: float, effect: float | None, marks: dict[str, float]
) -> None:
    ends = (min(one, other), max(one, other))
    root = drawn(plots.interval_plot("Interval", ends, effect, marks))
    lines = [line.attrib for line in root.iter("line") if line.attrib["class"] == "interval"]
    low, high = float(lines[0]["x1"]), float(lines[0]["x2"])
    assert 0 <= low <= high <= plots.WIDTH
    marked = [float(line.attrib["x1"]) for line in root.iter("line") if line.attrib["class"].startswith("mark")]
    for place, value in zip(marked, marks.values(), strict=True):
        assert 0 <= place <= plots.WIDTH
        assert place <= low + 0.2 or value >= ends[0]


NAMES = st.sampled_from(["a", "b", "c", "<d>", 'e"&'])


@given(st.dictionaries(NAMES, st.lists(NAMES, max_size=4), min_size=1))
def test_every_step_stands_somewhere_whatever_it_needs(needs: dict[str, list[str]]) -> None:
    steps = [Step(name, "note & more", "good", f"#{name}", tuple(wanted)) for name, wanted in needs.items()]
    root = drawn(step_graph("Steps", steps))
    places = boxes(root, "box")
    assert len(places) == len(steps)
    assert all(0 <= left < right <= graphs.WIDTH for left, right in places)


def test_a_step_stands_below_what_it_needs() -> None:
    steps = [
        Step("last", "", "off", "#", ("left", "right")),
        Step("left", "", "off", "#", ("first",)),
        Step("right", "", "off", "#", ("first",)),
        Step("first", "", "off", "#"),
    ]
    root = drawn(step_graph("Steps", steps))
    tops = [float(one.attrib["y"]) for one in root.iter("rect") if one.attrib["class"] == "box"]
    top = dict(zip((step.name for step in steps), tops, strict=True))
    assert top["first"] < top["left"] == top["right"] < top["last"]
    assert sum(1 for one in root.iter("path") if one.attrib["class"] == "arrow") == 4
