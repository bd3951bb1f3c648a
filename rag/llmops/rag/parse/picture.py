"""Pictures of text, such as scans and screenshots, to a page of text each, by `ocr`.

Knows nothing of engines; without one, or where the configuration wants none, a picture is refused with what to do.
"""

from __future__ import annotations

from llmops.rag.document import RefusedDocumentError
from llmops.rag.parse.extracted import Extracted, Limits, paged
from llmops.rag.parse.ocr import decoded, open_reader
from llmops.rag.parse.text import first_line_title


def extract(data: bytes, limits: Limits) -> Extracted:
    """The text of every picture in the file.

    Raises:
        RefusedDocumentError: `unsupported` (pictures are not read here), `ocr_missing`, `broken`, `too_large`.
    """
    if limits.ocr is None:
        raise RefusedDocumentError("unsupported", "it is a picture; `parsing.ocr: auto` reads its text")
    with open_reader(limits.ocr) as reader:
        texts = [reader.read_picture(pix) for pix in decoded(data)]
    text, pages = paged(texts)
    metadata = {"pages": len(texts), "ocr": limits.ocr}
    return Extracted(text, first_line_title(text), pages if len(texts) > 1 else (), metadata)
