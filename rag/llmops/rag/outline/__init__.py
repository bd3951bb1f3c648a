"""The structure of a parsed text, by what the document is: what the chunker cuts along and names passages by.

Knows which reader a type has. Each reader keeps to one pass over the characters, as texts come from anybody.
"""

from __future__ import annotations

from llmops.rag.document import Parsed
from llmops.rag.outline.code import code_outline
from llmops.rag.outline.markdown import markdown_outline
from llmops.rag.outline.rst import rst_outline
from llmops.rag.outline.structure import Heading, Outline
from llmops.rag.parse import media

__all__ = ["Heading", "Outline", "code_outline", "markdown_outline", "outline", "rst_outline"]


def outline(parsed: Parsed) -> Outline:
    """Read the structure of a text. Plain text has none: a `#` in it is just a character."""
    if parsed.media_type in media.MARKED_UP:
        return markdown_outline(parsed.text)
    if parsed.media_type == media.RST:
        return rst_outline(parsed.text)
    return code_outline(parsed.text) if parsed.media_type in media.CODE else Outline()
