"""PPTX to Markdown-like text: a page for each slide with its title, lists, tables, diagrams and the speaker's notes.

Reads the XML itself (ECMA-376 part 1, chapters 19 to 21). Hidden slides, what the master repeats on every slide,
animations, charts and pictures are not read.
"""

from __future__ import annotations

from typing import Any

from llmops.rag.parse.elements import attribute, beneath, child, children, local
from llmops.rag.parse.extracted import Extracted, Limits, paged
from llmops.rag.parse.markup import Markup
from llmops.rag.parse.package import Package
from llmops.rag.parse.text import first_line_title, tidy_title

_NO_TITLE = ("powerpoint presentation", "presentation", "slide 1", "untitled")
_TITLES = ("title", "ctrTitle")
_REPEATED = ("dt", "ftr", "sldNum", "hdr", "sldImg")
_LISTED = ("body", "obj", None)
"""Placeholders whose paragraphs are bullets; None is how an ordinary content placeholder is written."""


def extract(data: bytes, limits: Limits) -> Extracted:
    """The visible slides in their order, numbered as the program numbers them.

    Raises:
        RefusedDocumentError: `broken`, `encrypted`, `zip_bomb`, `xml_entities` or `too_much_text`.
    """
    texts = []
    first_heading = None
    left = limits.max_text_chars
    with Package(data) as package:
        main = package.main_part()
        relations = package.relations(main)
        for entry in children(child(package.xml(main), "sldIdLst"), "sldId"):
            named = next((value for key, value in entry.attrib.items() if key.endswith("}id")), "")
            kind, part = relations.get(named, ("", ""))
            markup = Markup(left)
            if kind == "slide":
                _write_slide(package, part, markup)
            texts.append(markup.text())
            left -= len(texts[-1])
            first_heading = first_heading or markup.first_heading
        named, facts = package.title() or "", package.stated()
    text, pages = paged(texts)
    title = None if named.strip().lower() in _NO_TITLE else tidy_title(named)
    title = title or tidy_title(first_heading or "") or first_line_title(text)
    return Extracted(text, title, pages if any(texts) else (), {**facts, "pages": len(texts)})


def _write_slide(package: Package, part: str, markup: Markup) -> None:
    slide = package.xml(part)
    if slide.get("show") in ("0", "false"):
        return
    related = package.related(part)
    tree = child(slide, "cSld", "spTree")
    shapes = list(_shapes(tree)) if tree is not None else []
    for shape in sorted(shapes, key=lambda shape: _placeholder(shape) not in _TITLES):
        _write_shape(shape, markup)
    if "diagramData" in related:
        for point in beneath(package.xml(related["diagramData"]), "pt"):
            markup.item(" ".join("".join(_words(paragraph)) for paragraph in beneath(point, "p")))
    if "notesSlide" in related:
        notes = beneath(package.xml(related["notesSlide"]), "sp")
        said = [_paragraph(one) for shape in notes if _placeholder(shape) == "body" for one in beneath(shape, "p")]
        if any(said):
            markup.paragraph("Notes: " + "\n".join(filter(None, said)))


def _shapes(parent: Any) -> list[Any]:
    """Shapes and tables in the order they were laid down, through groups."""
    found = []
    for element in parent:
        kind = local(element)
        if kind in ("sp", "graphicFrame"):
            found.append(element)
        elif kind in ("grpSp", "AlternateContent", "Choice"):
            found += _shapes(element)
    return found


def _placeholder(shape: Any) -> str | None:
    """What a shape is for; an empty word for a text box that stands by itself."""
    properties = child(shape, "nvSpPr", "nvPr", "ph")
    return properties.get("type") if properties is not None else ""


def _write_shape(shape: Any, markup: Markup) -> None:
    role = _placeholder(shape)
    if role in _REPEATED:
        return
    table = next(beneath(shape, "tbl"), None)
    if table is not None:
        markup.table(_cells(row) for row in children(table, "tr"))
        return
    body = child(shape, "txBody")
    paragraphs = list(children(body, "p"))
    if role in _TITLES:
        markup.heading(1, " ".join(map(_paragraph, paragraphs)))
        return
    for paragraph in paragraphs:
        if role in _LISTED:
            properties = child(paragraph, "pPr")
            depth = attribute(properties, "lvl") if properties is not None else None
            markup.item(_paragraph(paragraph), int(depth) if depth is not None and depth.isdigit() else 0)
        else:
            markup.paragraph(_paragraph(paragraph))


def _cells(row: Any) -> list[str]:
    return [" ".join(map(_paragraph, beneath(cell, "p"))) for cell in children(row, "tc")]


def _paragraph(paragraph: Any) -> str:
    return "".join(_words(paragraph)).strip()


def _words(paragraph: Any) -> list[str]:
    """The characters of a paragraph's runs and fields; a line break stays one."""
    found = []
    for element in paragraph.iter():
        kind = local(element)
        if kind == "t":
            found.append(element.text or "")
        elif kind == "br":
            found.append("\n")
    return found
