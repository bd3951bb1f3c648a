"""Rows of a sheet or a delimited file as records that can be understood alone, each with the headers of its columns.

Knows how a header row looks; neither workbooks nor delimiters. A row is found by its words and quoted without the rest
of its sheet, so a table whose header stands on top once would leave most rows without meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice

from llmops.rag.parse.markup import Markup

Row = Mapping[int, str]
"""The cells of a row that are not blank, by their column."""

_SEARCHED = 20
_MAX_LABEL_CHARS = 120
_FULL = 0.6
"""Share of the widest row's cells that a header names; less is a title or a remark above it."""
_FIGURE = re.compile(r"[\W\d_]*(?:[eE][-+]?\d+)?|\d[\d\W]*[A-Za-z]{1,3}|TRUE|FALSE", re.IGNORECASE)


def write_rows(rows: Iterable[Row], markup: Markup, name: str = "") -> None:
    """Write every row. What stands above the header is text; without a header the cells stand beside each other.

    Args:
        name: the heading of them all, where there are any.
    """
    flowing = (row for row in rows if row)
    first = list(islice(flowing, _SEARCHED))
    if first:
        markup.heading(1, name)
    place = _header(first)
    if place is None:
        markup.table(_dense(chain(first, flowing)))
        return
    names = {column: label[:_MAX_LABEL_CHARS] for column, label in first[place].items()}
    for row in first[:place]:
        markup.paragraph(" ".join(dict.fromkeys(row.values())))
    for row in chain(first[place + 1 :], flowing):
        markup.record((names.get(column, ""), value) for column, value in row.items())


def _header(rows: list[Row]) -> int | None:
    """The first row that names most columns by different words, with something below it."""
    widest = max((len(row) for row in rows), default=0)
    for place, row in enumerate(rows[:-1]):
        labels = [label.strip() for label in row.values()]
        distinct = len({label.casefold() for label in labels}) == len(labels)
        if len(row) > 1 and len(row) >= _FULL * widest and distinct and all(map(_is_label, labels)):
            return place
    return None


def _is_label(words: str) -> bool:
    return len(words) <= _MAX_LABEL_CHARS and _FIGURE.fullmatch(words) is None


def _dense(rows: Iterable[Row]) -> Iterator[list[str]]:
    """Cells side by side without the blank ones, as no header says which column is which."""
    return (list(row.values()) for row in rows)
