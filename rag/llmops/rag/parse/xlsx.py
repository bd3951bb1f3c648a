"""XLSX to records: a heading for each sheet, a paragraph for each row with its headers (ECMA-376 part 1, chapter 18).

Reads the XML itself, row by row, as a sheet may have a million: what is shown is what is written, dates and figures
included. Formulas give the value that was last computed, nothing is computed here. Hidden sheets, comments, charts and
pictures are not read; rows that a filter or a folded group hides are. A merged cell counts for each row and column that
it spans.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llmops.rag.parse.displayed import BUILT_IN, GENERAL, displayed
from llmops.rag.parse.elements import attribute, beneath, child, children, local
from llmops.rag.parse.extracted import Extracted, Limits
from llmops.rag.parse.markup import Markup
from llmops.rag.parse.package import Package
from llmops.rag.parse.rows import Row, write_rows
from llmops.rag.parse.text import tidy_title

_REFERENCE = re.compile(r"([A-Z]{1,3})(\d{1,7})")
_MERGED = re.compile(rb"<(?:\w+:)?mergeCell\s[^>]{0,200}?ref=[\"']([A-Z]{1,3}\d{1,7}):([A-Z]{1,3}\d{1,7})[\"']")
_MAX_MERGED = 10_000
_MAX_MERGED_COLUMNS = 200
_HIDDEN = ("hidden", "veryHidden")
_TRUE = ("1", "true")
_MAX_COLUMNS = 16_384


def extract(data: bytes, limits: Limits) -> Extracted:
    """The visible sheets in their order.

    Raises:
        RefusedDocumentError: `broken`, `encrypted`, `zip_bomb`, `xml_entities` or `too_much_text`.
    """
    markup = Markup(limits.max_text_chars)
    hidden = 0
    with Package(data) as package:
        main = package.main_part()
        book = _Book.read(package, main)
        relations = package.relations(main)
        for sheet in children(child(package.xml(main), "sheets"), "sheet"):
            kind, part = relations.get(attribute(sheet, "id") or "", ("", ""))
            if sheet.get("state") in _HIDDEN:
                hidden += 1
            elif kind == "worksheet":
                write_rows(_Sheet.read(package, part, book).rows(), markup, sheet.get("name", ""))
        title, facts = tidy_title(package.title() or ""), package.stated()
    return Extracted(markup.text(), title, metadata={**facts, **({"hidden_sheets": hidden} if hidden else {})})


@dataclass(frozen=True)
class _Book:
    """What the sheets share: texts, and the number format of every cell style."""

    texts: list[str]
    codes: list[str]
    since_1904: bool

    @classmethod
    def read(cls, package: Package, main: str) -> _Book:
        related = package.related(main)
        shared = package.each(related["sharedStrings"], "si") if "sharedStrings" in related else ()
        codes = _codes(package.xml(related["styles"])) if "styles" in related else []
        properties = child(package.xml(main), "workbookPr")
        return cls(
            [_plain(entry) for entry in shared], codes, properties is not None and properties.get("date1904") in _TRUE
        )

    def code(self, style: str | None) -> str:
        index = int(style) if style is not None and style.isdigit() else 0
        return self.codes[index] if index < len(self.codes) else GENERAL


def _codes(styles: Any) -> list[str]:
    own = {entry.get("numFmtId"): entry.get("formatCode", GENERAL) for entry in beneath(styles, "numFmt")}
    named = {**{str(number): code for number, code in BUILT_IN.items()}, **own}
    formats = child(styles, "cellXfs")
    return [named.get(entry.get("numFmtId"), GENERAL) for entry in formats] if formats is not None else []


@dataclass
class _Sheet:
    """One sheet's rows, read as they are asked for."""

    package: Package
    part: str
    book: _Book
    merged: list[tuple[int, int, int, int]]
    anchors: dict[tuple[int, int], str] = field(default_factory=dict)

    @classmethod
    def read(cls, package: Package, part: str, book: _Book) -> _Sheet:
        """Look ahead for the merged ranges, which stand behind the rows."""
        data = package.content(part)
        ranges: list[tuple[int, int, int, int]] = []
        for found in _MERGED.finditer(data, max(data.rfind(b"sheetData"), 0)):
            (left, top), (right, bottom) = (_place(corner.decode()) for corner in found.groups())
            if right - left < _MAX_MERGED_COLUMNS and len(ranges) < _MAX_MERGED:
                ranges.append((top, bottom, left, right))
        return cls(package, part, book, sorted(ranges, reverse=True))

    def rows(self) -> Iterator[Row]:
        """Every row that the file holds, those that are blank included."""
        spanning: list[tuple[int, int, int, int]] = []
        number = 0
        for element in self.package.each(self.part, "row"):
            told = element.get("r", "")
            number = int(told) if told.isdigit() else number + 1
            cells = self._cells(element)
            while self.merged and self.merged[-1][0] <= number:
                spanning.append(self.merged.pop())
            if spanning:
                spanning = [area for area in spanning if area[1] >= number]
                cells = self._spread(cells, spanning, number)
            yield cells

    def _cells(self, row: Any) -> dict[int, str]:
        cells: dict[int, str] = {}
        column = -1
        for cell in row:
            reference = cell.get("r")
            column = _place(reference)[0] if reference else column + 1
            value = self._value(cell)
            if value and column < _MAX_COLUMNS:
                cells[column] = value
        return cells

    def _value(self, cell: Any) -> str:
        """What the sheet shows in a cell."""
        kind = cell.get("t", "n")
        stored = ""
        for part in cell:
            name = local(part)
            if name == "v":
                stored = part.text or ""
            elif name == "is":
                return _plain(part)
        if kind == "n":
            return displayed(stored, self.book.code(cell.get("s")), self.book.since_1904) if stored else ""
        if kind == "s":
            return self.book.texts[int(stored)] if stored.isdigit() and int(stored) < len(self.book.texts) else ""
        if kind == "b":
            return "TRUE" if stored in _TRUE else "FALSE"
        return stored.strip()

    def _spread(self, cells: dict[int, str], spanning: list[tuple[int, int, int, int]], number: int) -> dict[int, str]:
        """The cells, and in each merged range its own."""
        for area in spanning:
            top, _, left, right = area
            if number == top:
                self.anchors[top, left] = cells.get(left, "")
            shown = self.anchors.get((top, left), "")
            for column in range(left, right + 1) if shown else ():
                cells.setdefault(column, shown)
        return dict(sorted(cells.items()))


def _plain(element: Any) -> str:
    """The characters of a text with its runs, without the reading aids of East Asian scripts."""
    parts = []
    for part in element:
        name = local(part)
        if name == "t":
            parts.append(part.text or "")
        elif name == "r":
            parts.append(_plain(part))
    return "".join(parts).strip()


def _place(reference: str) -> tuple[int, int]:
    """Column from 0 and row from 1 of a reference such as `B12`."""
    found = _REFERENCE.match(reference)
    if found is None:
        return 0, 0
    column = 0
    for letter in found[1]:
        column = column * 26 + ord(letter) - 64
    return column - 1, int(found[2])
