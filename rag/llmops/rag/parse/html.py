"""HTML to Markdown-like text: the main content by trafilatura, everything visible where it finds none.

Knows elements; scripts, styles and comments are no text, and what the text says in angle brackets stays text. Nothing
is fetched. Trafilatura was the best of the extractors measured (F1 .96).
"""

from __future__ import annotations

import re
from typing import Any

from lxml import etree  # type: ignore[import-untyped]
from lxml import html as lxml_html
from trafilatura import bare_extraction

from llmops.rag.document import RefusedDocumentError
from llmops.rag.parse.extracted import Extracted, Limits
from llmops.rag.parse.markup import Markup
from llmops.rag.parse.text import decode, tidy_title

_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.IGNORECASE)
_INVISIBLE = ("script", "style", "noscript", "template", "svg", "head", "iframe", "object")
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BREAKING = frozenset(
    (
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "center",
        "dd",
        "details",
        "dialog",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hr",
        "html",
        "legend",
        "li",
        "main",
        "menu",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "tr",
        "ul",
    )
)


def extract(data: bytes, limits: Limits) -> Extracted:
    """The page's main content; its title is the only first-level heading, or what the browser's tab would say.

    Raises:
        RefusedDocumentError: `broken`, `wrong_encoding` or `binary`.
    """
    text, metadata = _decode(data)
    root = _parse(text)
    title = _title(root)
    found = bare_extraction(_parse(text), include_comments=False, include_tables=True)
    markup = Markup()
    if found is not None and found.body is not None:
        _write_children(found.body, markup)
    if not markup.text():
        _write_visible(root, markup)
    return Extracted(markup.text(), title or tidy_title(markup.first_heading or ""), metadata=metadata)


def _decode(data: bytes) -> tuple[str, dict[str, Any]]:
    declared = _CHARSET.search(data[:4096])
    if declared is not None:
        try:
            encoding = declared.group(1).decode().lower()
            encoding = "cp1252" if encoding in ("iso-8859-1", "latin-1") else encoding  # as browsers read it
            return data.decode(encoding), {} if encoding in ("utf-8", "utf8") else {"encoding": encoding}
        except (UnicodeDecodeError, LookupError):
            pass  # the declaration is wrong, as it often is: the bytes decide
    return decode(data)


def _parse(text: str) -> Any:
    parser = lxml_html.HTMLParser(
        encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True, huge_tree=False
    )
    try:
        root = lxml_html.document_fromstring(text.encode("utf-8", errors="replace"), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError) as error:
        code = "empty" if "empty" in str(error).lower() else "broken"
        raise RefusedDocumentError(code, f"no HTML document: {error}") from error
    for element in root.xpath(" | ".join(f"//{name}" for name in _INVISIBLE if name != "head")):
        if element.getparent() is not None:
            element.drop_tree()
    return root


def _title(root: Any) -> str | None:
    tops = [" ".join(top.text_content().split()) for top in root.iter("h1")]
    tab = tidy_title(root.findtext(".//title") or "")
    if len(tops) == 1 and tops[0] and (tab is None or tops[0].casefold() in tab.casefold()):
        return tidy_title(tops[0])
    return tab or tidy_title(next((top for top in tops if top), ""))


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


def _write_visible(root: Any, markup: Markup) -> None:
    """Write every visible word, block by block: for pages in which no main content can be told."""
    body = root.find("body")
    line: list[str] = []
    for event, element in etree.iterwalk(body if body is not None else root, events=("start", "end")):
        if not isinstance(element.tag, str):
            continue
        if element.tag in _BREAKING or element.tag in _HEADINGS or element.tag == "br":
            _flush(line, markup, _HEADINGS.get(element.tag) if event == "end" else None)
        line.append((element.text if event == "start" else element.tail) or "")
    _flush(line, markup, None)


def _flush(line: list[str], markup: Markup, level: int | None) -> None:
    words = " ".join("".join(line).split())
    line.clear()
    if level is not None:
        markup.heading(level, words)
    elif words:
        markup.paragraph(words)
