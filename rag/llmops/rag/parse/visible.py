"""Every word that a browser shows of an HTML element, as Markdown: for pages with a marked main part, or none at all.

Knows elements and their usual meaning; no style sheet, so what a style hides is still text.
"""

from __future__ import annotations

from typing import Any

from llmops.rag.parse.markup import Markup

INVISIBLE = ("script", "style", "noscript", "template", "svg", "iframe", "object", "canvas")
_ASIDE = frozenset((*INVISIBLE, "head", "nav", "aside", "footer", "button", "select", "textarea", "dialog"))
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LISTS = ("ul", "ol", "menu")
_WHOLE = ("pre", "table", *_LISTS, *_HEADINGS)
_BREAKING = frozenset(
    (
        "address",
        "article",
        "blockquote",
        "body",
        "center",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "form",
        "header",
        "hr",
        "html",
        "legend",
        "main",
        "p",
        "section",
        "summary",
    )
)


def write_visible(root: Any, markup: Markup) -> None:
    """Write an element's content block by block, without navigation and controls."""
    line: list[str] = []
    _write_children(root, markup, line)
    _flush(line, markup)


def visible_chars(root: Any) -> int:
    """How many characters `write_visible` would write, marks and blanks aside."""
    return sum(len("".join(text.split())) for text in _texts(root))


def _write_children(parent: Any, markup: Markup, line: list[str]) -> None:
    line.append(parent.text or "")
    for child in parent:
        _write(child, markup, line)
        line.append(child.tail or "")


def _write(element: Any, markup: Markup, line: list[str]) -> None:
    """Write a block, or add an inline element's words to the line they stand in."""
    tag = element.tag
    if not _is_shown(element):
        return
    if tag == "br":
        line.append("\n")
    elif tag in _WHOLE:
        _flush(line, markup)
        _write_whole(element, markup)
    elif tag in _BREAKING:
        _flush(line, markup)
        _write_children(element, markup, line)
        _flush(line, markup)
    else:
        _write_children(element, markup, line)


def _write_whole(element: Any, markup: Markup) -> None:
    tag = element.tag
    if tag in _HEADINGS:
        markup.heading(_HEADINGS[tag], _words(element))
    elif tag == "pre":
        markup.code("".join(_texts(element)))
    elif tag in _LISTS:
        _write_list(element, markup, 0)
    else:
        rows = list(element.iter("tr"))
        cells = [[_words(cell) for cell in row if cell.tag in ("td", "th")] for row in rows]
        if next(element.iterdescendants("table"), None) is not None or all(len(row) < 2 for row in cells):
            for cell in element.iter("td", "th", "caption"):  # a table that only lays out, or frames
                if next(cell.iterdescendants("table"), None) is None:
                    write_visible(cell, markup)
        else:
            markup.table(cells)


def _write_list(element: Any, markup: Markup, depth: int) -> None:
    for item in element.iterchildren("li"):
        if next(item.iterdescendants("pre", "table", *_HEADINGS), None) is not None:
            write_visible(item, markup)
            continue
        markup.item(_words(item, without=_LISTS), depth)
        for nested in item.iterdescendants(*_LISTS):
            if next(nested.iterancestors("li"), None) is item:
                _write_list(nested, markup, depth + 1)


def _words(element: Any, without: tuple[str, ...] = ()) -> str:
    return " ".join("".join(_texts(element, without)).split())


def _texts(element: Any, without: tuple[str, ...] = ()) -> list[str]:
    """The texts beneath an element in order; blocks and line breaks part words."""
    found = [element.text or ""]
    for child in element:
        if _is_shown(child) and child.tag not in without:
            apart = "\n" if child.tag in _BREAKING or child.tag == "br" else ""
            found.extend((apart, *_texts(child, without), apart if child.tag != "br" else ""))
        found.append(child.tail or "")
    return found


def _is_shown(element: Any) -> bool:
    return isinstance(element.tag, str) and element.tag not in _ASIDE and "hidden" not in element.attrib


def _flush(line: list[str], markup: Markup) -> None:
    words = "\n".join(" ".join(part.split()) for part in "".join(line).split("\n") if part.strip())
    line.clear()
    if words:
        markup.paragraph(words)
