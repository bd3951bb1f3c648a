"""Mailboxes (RFC 4155) to text: message after message, each under its subject.

Knows where one message ends and the next begins; what a message is, `mail` knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmops.rag.document import RefusedDocumentError
from llmops.rag.parse.extracted import Extracted, Limits
from llmops.rag.parse.mail import read_message, write_message
from llmops.rag.parse.markup import Markup

_FROM = re.compile(rb"(?:\A|\n\r?\n)From [^\n]+\n")
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)


def extract(data: bytes, limits: Limits) -> Extracted:
    """Every message of a mailbox, in its order.

    Raises:
        RefusedDocumentError: `broken`, `too_much_text`.
    """
    markup = Markup(limits.max_text_chars)
    count = 0
    refused = []
    for message in _messages(data):
        written = write_message(read_message(message), limits, markup)
        refused += written.get("attachments_refused", [])
        count += 1
    facts = {"messages": count, "attachments_refused": refused}
    return Extracted(markup.text(), metadata={name: value for name, value in facts.items() if value})


def _messages(data: bytes) -> Iterator[bytes]:
    starts = [found.span() for found in _FROM.finditer(data)]
    if not starts or starts[0][0] != 0:
        raise RefusedDocumentError("broken", "a mailbox begins with `From `")
    for (_, begin), (end, _) in zip(starts, [*starts[1:], (len(data), 0)], strict=True):
        yield _QUOTED.sub(rb"\1", data[begin:end])
