"""HTML to Markdown-like text: the main content by trafilatura, unless the page knows better.

Trafilatura was the best extractor measured on the open web (F1 .96), but it takes reference pages for lists of links:
of 24 pages of Rust's documentation it kept .72 of the words. Where a page marks its `<main>` part and trafilatura drops
much of it, the marked part is written in full; where it finds nothing, everything visible is. Scripts, styles and
comments are no text, what the text says in angle brackets stays text, and nothing is fetched.
"""

from __future__ import annotations

from typing import Any

from trafilatura import bare_extraction

from llmops.rag.parse.extracted import Extracted, Limits
from llmops.rag.parse.markup import Markup
from llmops.rag.parse.stated import stated
from llmops.rag.parse.text import tidy_title
from llmops.rag.parse.tree import parse_html, read_html
from llmops.rag.parse.visible import visible_chars, write_visible

_AUTHORS = ("author", "article:author", "dc.creator", "dcterms.creator")
_DAYS = ("article:published_time", "datepublished", "dcterms.date", "dcterms.created", "dc.date", "date")
_KEPT = 0.7
"""Share of the marked main part that trafilatura must keep to be trusted: below it, what it drops is no boilerplate."""


def extract(data: bytes, limits: Limits) -> Extracted:
    """The page's main content and its title.

    Raises:
        RefusedDocumentError: `broken`, `wrong_encoding` or `binary`.
    """
    text, metadata = read_html(data)
    root = parse_html(text)
    title = _title(root)
    metadata = {**metadata, **_stated(root)}
    markup = Markup()
    found = bare_extraction(parse_html(text), include_comments=False, include_tables=True)
    if found is not None and found.body is not None:
        _write_children(found.body, markup)
    main = _main(root)
    if main is not None and markup.size() < _KEPT * visible_chars(main):
        markup = Markup()
        write_visible(main, markup)
    elif not markup.size():
        body = root.find("body")
        write_visible(body if body is not None else root, markup)
    return Extracted(markup.text(), title or tidy_title(markup.first_heading or ""), metadata=metadata)


def _stated(root: Any) -> dict[str, Any]:
    """What the page's head says of it."""
    said: dict[str, str] = {}
    for meta in root.iter("meta"):
        name = (meta.get("name") or meta.get("property") or meta.get("itemprop") or "").casefold()
        said.setdefault(name, meta.get("content") or "")
    return stated(
        author=next((said[name] for name in _AUTHORS if said.get(name)), None),
        day=next((said[name] for name in _DAYS if said.get(name)), None),
        language=root.get("lang"),
    )


def _main(root: Any) -> Any:
    """The one part that the page itself calls its main content."""
    marked = root.xpath("//main | //*[@role='main']") or root.xpath("//article")
    outermost = [part for part in marked if not any(other in marked for other in part.iterancestors())]
    return outermost[0] if len(outermost) == 1 else None


def _title(root: Any) -> str | None:
    """The first heading where the browser's tab begins with it, else the tab's title, else the first heading."""
    headings = [" ".join(heading.text_content().split()) for name in ("h1", "h2") for heading in root.iter(name)]
    top = next((words for words in headings if words), "")
    tab = tidy_title(root.findtext(".//title") or "")
    return tidy_title(top) if tab is None or (top and tab.casefold().startswith(top.casefold())) else tab


def _write_children(parent: Any, markup: Markup) -> None:
    """Write trafilatura's tree (TEI-like: head, p, list, table, code, quote) as Markdown."""
    loose = parent.text or ""
    for child in parent:
        if loose.strip():
            markup.paragraph(loose)
        _write(child, markup)
        loose = child.tail or ""
    if loose.strip():
        markup.paragraph(loose)


def _write(element: Any, markup: Markup) -> None:
    tag = element.tag
    if tag == "head":
        rank = element.get("rend", "")
        markup.heading(int(rank[1]) if rank[1:2].isdigit() else 2, _words(element))
    elif tag == "list":
        _write_list(element, markup, 0)
    elif tag == "table":
        markup.table([_words(cell) for cell in row.iter("cell")] for row in element.iter("row"))
    elif tag == "code":
        markup.code(_words(element))
    elif tag in ("quote", "div") and element.find("p") is not None:
        _write_children(element, markup)
    else:
        markup.paragraph(_words(element))


def _write_list(element: Any, markup: Markup, depth: int) -> None:
    for item in element.iterchildren("item"):
        inner = list(item.iterchildren("list"))
        markup.item(_words(item, skip="list"), depth)
        for nested in inner:
            _write_list(nested, markup, depth + 1)


def _words(element: Any, skip: str | None = None) -> str:
    """All characters beneath an element in order, `<lb/>` as a line end; without the elements named `skip`."""
    parts = [element.text or ""]
    for child in element:
        if child.tag == "lb":
            parts.append("\n")
        elif child.tag != skip:
            parts.append(_words(child, skip))
        parts.append(child.tail or "")
    return "".join(parts)
