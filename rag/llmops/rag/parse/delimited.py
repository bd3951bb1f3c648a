"""CSV and TSV to records with their headers. The delimiter is the one that cuts the first lines into even rows.

Knows delimiters and quotes (RFC 4180, and what spreadsheets make of it); `csv.Sniffer` is not used: on prose in quotes
it takes letters for delimiters.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from itertools import islice

from llmops.rag.document import RefusedDocumentError
from llmops.rag.parse.extracted import Extracted, Limits
from llmops.rag.parse.markup import Markup
from llmops.rag.parse.rows import Row, write_rows
from llmops.rag.parse.text import decode

_DELIMITERS = "\t;|,"
"""The rarer in text comes first, and wins where two cut evenly: `1,5;2,5` is two figures, not three."""
_SAMPLE_CHARS = 50_000
_SAMPLE_ROWS = 50


def extract(data: bytes, limits: Limits) -> Extracted:
    """A paragraph for each row.

    Raises:
        RefusedDocumentError: `broken`, `wrong_encoding`, `binary` or `too_much_text`.
    """
    text, metadata = decode(data)
    csv.field_size_limit(limits.max_text_chars)
    head = text[:10].split("\n", 1)[0].strip().lower()
    told = head[4:] if head.startswith("sep=") and len(head) == 5 else None
    body = text.split("\n", 1)[-1] if told else text
    markup = Markup(limits.max_text_chars)
    try:
        write_rows(_rows(body, told or _delimiter(body)), markup)
    except csv.Error as error:
        raise RefusedDocumentError("broken", f"no delimited text: {error}") from error
    return Extracted(markup.text(), metadata=metadata)


def _rows(text: str, delimiter: str) -> Iterator[Row]:
    for cells in csv.reader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True):
        yield {column: cell for column, cell in enumerate(cells) if cell.strip()}


def _delimiter(text: str) -> str:
    """The character that gives most of the first rows the same number of cells."""
    sample = text[:_SAMPLE_CHARS]
    complete = sample if len(sample) == len(text) else sample[: sample.rfind("\n") + 1] or sample

    def evenness(delimiter: str) -> float:
        read = csv.reader(StringIO(complete, newline=""), delimiter=delimiter, skipinitialspace=True)
        widths = Counter(len(cells) for cells in islice(read, _SAMPLE_ROWS) if cells)
        width, count = max(widths.items(), key=lambda entry: (entry[0] > 1, entry[1]), default=(1, 0))
        return count / widths.total() if width > 1 else 0.0

    return max(_DELIMITERS, key=evenness)
