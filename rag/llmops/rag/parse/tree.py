"""HTML to a tree of elements: which characters, which elements, and nothing that runs.

Knows how a page declares its encoding, and what a parser must not do: fetch, expand entities, stop half way in silence.
"""

from __future__ import annotations

import re
from typing import Any

from lxml import etree  # type: ignore[import-untyped]
from lxml import html as lxml_html

from llmops.rag.document import RefusedDocumentError
from llmops.rag.parse.text import decode
from llmops.rag.parse.visible import INVISIBLE

_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.IGNORECASE)


def read_html(data: bytes) -> tuple[str, dict[str, Any]]:
    """The characters of a page: as it declares them where that is true, else as its bytes say."""
    declared = _CHARSET.search(data[:4096])
    if declared is not None:
        try:
            encoding = declared.group(1).decode().lower()
            encoding = "cp1252" if encoding in ("iso-8859-1", "latin-1") else encoding  # as browsers read it
            return data.decode(encoding), {} if encoding in ("utf-8", "utf8") else {"encoding": encoding}
        except (UnicodeDecodeError, LookupError):
            pass  # the declaration is wrong, as it often is: the bytes decide
    return decode(data)


def parse_html(text: str) -> Any:
    """The tree of a page without scripts, styles and comments.

    Raises:
        RefusedDocumentError: `broken` or `empty`.
    """
    parser = lxml_html.HTMLParser(
        encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True, huge_tree=False
    )
    try:
        root = lxml_html.document_fromstring(text.encode("utf-8", errors="replace"), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError) as error:
        code = "empty" if "empty" in str(error).lower() else "broken"
        raise RefusedDocumentError(code, f"no HTML document: {error}") from error
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):  # libxml2 stopped there, in silence
        raise RefusedDocumentError("broken", "its elements are nested too deep, or too large")
    for element in list(root.iter(*INVISIBLE)):
        if element.getparent() is not None:
            element.drop_tree()
    return root
