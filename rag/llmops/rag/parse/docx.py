"""DOCX to Markdown-like text: headings, lists, tables and notes of WordprocessingML (ECMA-376 part 1, chapter 17).

Reads the XML itself: the library that was chosen first, kreuzberg 4.10, drops `&`, `<`, `>` and tabs from every
paragraph, so that "x < 3" becomes "x 3". Pictures, headers, footers, comments and deleted text are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llmops.rag.parse.elements import attribute, children, local
from llmops.rag.parse.extracted import Extracted, Limits
from llmops.rag.parse.markup import Markup
from llmops.rag.parse.package import Package
from llmops.rag.parse.text import first_line_title, tidy_title

_NOT_READ = frozenset(
    ("del", "moveFrom", "pPr", "rPr", "Fallback", "sectPr", "commentRangeStart", "instrText", "delText")
)
_CHARACTERS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_HEADING_NAME = re.compile(r"heading (\d)", re.IGNORECASE)
_NO_TITLE = ("word document", "microsoft word document", "untitled", "document")


def extract(data: bytes, limits: Limits) -> Extracted:
    """The body's text in reading order, then its notes.

    Raises:
        RefusedDocumentError: `broken`, `encrypted`, `zip_bomb` or `xml_entities`.
    """
    with Package(data) as package:
        main = package.main_part()
        related = package.related(main)
        styles = _Styles.read(package.xml(related["styles"])) if "styles" in related else _Styles()
        markup = Markup()
        for body in children(package.xml(main), "body"):
            _write_blocks(body, styles, markup)
        for kind in ("footnotes", "endnotes"):
            for note in package.xml(related[kind]) if kind in related else ():
                if attribute(note, "type") is None:  # the typed ones are lines drawn between text and notes
                    _write_blocks(note, styles, markup)
        named, facts = package.title() or "", package.stated()
    text = markup.text()
    title = None if named.strip().lower() in _NO_TITLE else tidy_title(named)
    return Extracted(text, title or tidy_title(markup.first_heading or "") or first_line_title(text), metadata=facts)


@dataclass
class _Styles:
    """What a paragraph's style makes of it; looked up when a paragraph asks, as files carry hundreds that none uses."""

    elements: dict[str, Any] = field(default_factory=dict)
    known: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Any) -> _Styles:
        return cls({attribute(style, "styleId") or "": style for style in children(root, "style")})

    def of(self, name: str) -> tuple[int | None, int | None]:
        """Heading level and list depth, each from the nearest ancestor that has one; a circle of ancestors ends."""
        if name not in self.known:
            level = depth = None
            seen: set[str] = set()
            ancestor = name
            while ancestor in self.elements and ancestor not in seen:
                seen.add(ancestor)
                style = self.elements[ancestor]
                level = level if level is not None else _own_level(style)
                depth = depth if depth is not None else _number(style)
                ancestor = _value(style, "basedOn") or ""
            self.known[name] = level, depth
        return self.known[name]


def _own_level(style: Any) -> int | None:
    """The heading level that a style gives: by its name (the same in every language), or by its outline level."""
    name = _value(style, "name") or ""
    if name.lower() == "title":
        return 1
    named = _HEADING_NAME.fullmatch(name)
    return int(named.group(1)) if named else _outline_level(style)


def _outline_level(element: Any) -> int | None:
    level = next((_value(properties, "outlineLvl") for properties in children(element, "pPr")), None)
    return int(level) + 1 if level is not None and level.isdigit() and int(level) < 9 else None


def _number(element: Any) -> int | None:
    """The depth of a list entry; -1 for what is said to be none, None where nothing is said."""
    for properties in children(element, "pPr"):
        for number in children(properties, "numPr"):
            which, depth = _value(number, "numId"), _value(number, "ilvl") or "0"
            if which is not None:
                return -1 if which == "0" else int(depth) if depth.isdigit() else 0
    return None


def _write_blocks(parent: Any, styles: _Styles, markup: Markup) -> None:
    for element in _read(parent):
        kind = local(element)
        if kind == "p":
            _write_paragraph(element, styles, markup)
        elif kind == "tbl":
            _write_table(element, styles, markup)
        else:
            _write_blocks(element, styles, markup)


def _write_paragraph(paragraph: Any, styles: _Styles, markup: Markup) -> None:
    words = "".join(_words(paragraph))
    style = next((_value(properties, "pStyle") for properties in children(paragraph, "pPr")), None) or ""
    style_level, style_depth = styles.of(style)
    level = _outline_level(paragraph) or style_level
    depth = _number(paragraph)
    depth = depth if depth is not None else style_depth
    if level is not None:
        markup.heading(level, words)
    elif depth is not None and depth >= 0:
        markup.item(words, depth)
    else:
        markup.paragraph(words)


def _write_table(table: Any, styles: _Styles, markup: Markup) -> None:
    """A table by rows; one of a single column only frames its text."""
    rows = [list(_nearest(row, "tc")) for row in _nearest(table, "tr")]
    if all(len(row) == 1 for row in rows):
        for (cell,) in rows:
            _write_blocks(cell, styles, markup)
    else:
        markup.table([" ".join("".join(_words(cell)).split()) for cell in row] for row in rows)


def _words(parent: Any) -> Iterator[str]:
    """The characters beneath an element in order; paragraphs within it (cells, text boxes) get lines of their own."""
    for element in _read(parent):
        kind = local(element)
        if kind == "t":
            yield element.text or ""
        elif kind in _CHARACTERS:
            yield _CHARACTERS[kind]
        elif kind == "p":
            yield "\n"
            yield from _words(element)
            yield "\n"
        else:
            yield from _words(element)


def _read(parent: Any) -> Iterator[Any]:
    return (element for element in parent if local(element) not in _NOT_READ)


def _nearest(parent: Any, kind: str) -> Iterator[Any]:
    """Elements of a kind beneath this one, through wrappers such as content controls, but not in a table within."""
    for element in _read(parent):
        if local(element) == kind:
            yield element
        elif local(element) != "tbl":
            yield from _nearest(element, kind)


def _value(parent: Any, kind: str) -> str | None:
    """The `val` attribute of the first child of a kind."""
    return next((attribute(child, "val") for child in children(parent, kind)), None)
