"""E-mail to Markdown-like text: who wrote to whom and when, the message, and each attachment by the parser of its type.

Knows MIME (RFC 5322, 2045 to 2049) as far as mail is read. Everything in a message is bounded, as its sender is not to
be trusted: parts, depth, attachments, and the text of all of them together. Nothing that it points to is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from email import policy
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any

from llmops.rag.document import RefusedDocumentError
from llmops.rag.parse import media
from llmops.rag.parse.extracted import Extracted, Limits, printable
from llmops.rag.parse.markup import Markup
from llmops.rag.parse.read import Content
from llmops.rag.parse.text import decode, tidy_title
from llmops.rag.parse.visible import write_visible

_EXPECTED = frozenset(("from", "to", "subject", "date", "message-id", "received"))
_SHOWN = ("From", "To", "Cc", "Date")
_MAX_HEADER_CHARS = 2000
_MAX_NAME_CHARS = 200
_MAX_DEPTH = 5
_MAX_PARTS = 1000
_MAX_ATTACHMENTS = 100
_LOCKED = ("multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime")
_SEALS = ("application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature")
_GIVES_UP = (ValueError, IndexError, KeyError, AttributeError, TypeError)
"""What Python's parser of headers raises at some that are built to harm."""
_EXTENSIONS = {"text/plain": ".txt", "text/html": ".html", "text/csv": ".csv", "text/markdown": ".md"}


def extract(data: bytes, limits: Limits) -> Extracted:
    """One message with its attachments.

    An attachment that cannot be read costs only itself: its name and the reason are in the metadata.

    Raises:
        RefusedDocumentError: `broken` (no message, or one that is built to harm), `too_much_text`.
    """
    markup = Markup(limits.max_text_chars)
    message = read_message(data)
    metadata = write_message(message, limits, markup)
    return Extracted(markup.text(), tidy_title(_header(message, "Subject")), metadata=metadata)


def read_message(data: bytes) -> EmailMessage:
    """Take a message apart.

    Raises:
        RefusedDocumentError: `broken`.
    """
    try:
        message = BytesParser(EmailMessage, policy=policy.default).parsebytes(data)
    except RecursionError as error:
        raise RefusedDocumentError("broken", "its parts are nested too deep") from error
    if _EXPECTED.isdisjoint(name.lower() for name in message.keys()):  # noqa: SIM118 - a message is no dict
        raise RefusedDocumentError("broken", "it has no header of a message")
    return message


def write_message(message: EmailMessage, limits: Limits, markup: Markup, depth: int = 0) -> dict[str, Any]:
    """Write a message under its subject, and give the facts to filter by.

    Args:
        depth: how many messages this one is attached to.

    Raises:
        RefusedDocumentError: `broken`, `encrypted`, `too_much_text`.
    """
    try:
        return _write(message, limits, markup, depth)
    except _GIVES_UP as error:
        raise RefusedDocumentError("broken", f"its headers cannot be read: {type(error).__name__}") from error


def _write(message: EmailMessage, limits: Limits, markup: Markup, depth: int) -> dict[str, Any]:
    markup.heading(1 + depth, _header(message, "Subject") or "Message without a subject")
    lines = [f"{name}: {_header(message, name)}" for name in _SHOWN if _header(message, name)]
    markup.paragraph("\n".join(lines))
    attachments: list[str] = []
    refused: list[str] = []
    body = _body(message)
    for part, alternative in _parts(message):
        if part is body or not (alternative or _is_attachment(part)):
            _write_body(part, markup, depth)
        elif _is_attachment(part) and part.get_content_type() not in _SEALS:
            name = _name(part, len(attachments) + len(refused) + 1)
            try:
                _write_attachment(part, name, limits, markup, depth)
                attachments.append(name)
            except RefusedDocumentError as refusal:
                if refusal.error_code == "too_much_text":
                    raise
                refused.append(f"{name}: {refusal.what}")
        if len(attachments) + len(refused) > _MAX_ATTACHMENTS:
            raise RefusedDocumentError("broken", f"it has more than {_MAX_ATTACHMENTS} attachments")
    facts = {"from": _header(message, "From"), "to": _header(message, "To"), "date": _date(message)}
    lists = {"attachments": attachments, "attachments_refused": refused}
    return {name: value for name, value in {**facts, **lists}.items() if value}


def _parts(message: Message) -> Iterator[tuple[EmailMessage, bool]]:
    """The leaves of a message, attached messages whole; and whether each is one of several formats of the same text."""
    waiting: list[tuple[Any, int, bool]] = [(message, 0, False)]
    seen = 0
    while waiting:
        part, depth, alternative = waiting.pop()
        seen += 1
        if seen > _MAX_PARTS or depth > _MAX_DEPTH:
            raise RefusedDocumentError("broken", "it has too many parts, or they are nested too deep")
        kind = part.get_content_type()
        if kind in _LOCKED:
            raise RefusedDocumentError("encrypted", "the message is encrypted")
        if part.get_content_maintype() == "multipart" and part.is_multipart():
            alternative = alternative or kind == "multipart/alternative"
            waiting += [(inner, depth + 1, alternative) for inner in reversed(part.get_payload())]
        else:
            yield part, alternative


def _body(message: EmailMessage) -> EmailMessage | None:
    """The part that a mail program shows: formatted where there is both, as lists and tables are kept there."""
    try:
        found = message.get_body(preferencelist=("html", "plain"))
    except _GIVES_UP:
        return None
    return found if isinstance(found, EmailMessage) else None


def _is_attachment(part: EmailMessage) -> bool:
    """What was sent along, other than a picture that stands in the text."""
    if part.get_content_maintype() == "image" and part.get("Content-ID"):
        return part.is_attachment()
    return part.is_attachment() or part.get_filename() is not None or part.get_content_maintype() != "text"


def _write_body(part: EmailMessage, markup: Markup, depth: int) -> None:
    """Write what the message itself says: all of it, as none of it is a page's boilerplate."""
    data = _bytes(part)
    if part.get_content_type() != "text/html":
        markup.paragraph(printable(decode(data)[0].replace("\r\n", "\n")))
    elif data.strip():
        from llmops.rag.parse.tree import parse_html, read_html

        formatted = Markup()
        write_visible(parse_html(read_html(data)[0]), formatted)
        markup.markdown(formatted.text(), 1 + depth)


def _write_attachment(part: EmailMessage, name: str, limits: Limits, markup: Markup, depth: int) -> None:
    is_mail = part.get_content_type() == "message/rfc822" or media.by_name(name) == media.MAIL
    if is_mail and depth >= _MAX_DEPTH:
        raise RefusedDocumentError("broken", "messages are attached to messages too deep")
    if part.get_content_type() == "message/rfc822":
        inner = part.get_payload()
        if isinstance(inner, list) and inner and isinstance(inner[0], EmailMessage):
            write_message(inner[0], limits, markup, depth + 1)
    elif is_mail:
        write_message(read_message(_bytes(part)), limits, markup, depth + 1)
    else:
        _write_parsed(part, name, limits, markup, 2 + depth)


def _write_parsed(part: EmailMessage, name: str, limits: Limits, markup: Markup, level: int) -> None:
    """Parse an attachment by its type, as a file of that name would be, and write it under its name."""
    from llmops.rag.parse.parse import parse_content

    data = _bytes(part)
    if not data:
        raise RefusedDocumentError("empty")
    if media.by_name(name) == media.MBOX:
        raise RefusedDocumentError("unsupported", "a mailbox within a message is not read")
    parsed = parse_content(name, Content(data, sha256(data).hexdigest()), limits)
    markup.heading(level, f"Attachment: {name}")
    if parsed.media_type in media.MARKED_UP:
        markup.markdown(parsed.text, level)
    elif parsed.media_type in media.CODE:
        markup.code(parsed.text, parsed.media_type.removeprefix("text/x-"))
    else:
        markup.paragraph(parsed.text)


def _bytes(part: EmailMessage) -> bytes:
    """A part's content, decoded from its transfer encoding; text as UTF-8."""
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    charset = part.get_content_charset()
    if part.get_content_maintype() != "text" or charset in (None, "utf-8", "us-ascii"):
        return data
    try:
        return data.decode(str(charset)).encode()
    except (LookupError, UnicodeError):
        return decode(data)[0].encode() if data else data


def _name(part: EmailMessage, number: int) -> str:
    kind = part.get_content_type()
    try:
        named = part.get_filename()
    except _GIVES_UP:
        named = None
    return " ".join(printable(named or f"part {number}{_EXTENSIONS.get(kind, '')}").split())[:_MAX_NAME_CHARS]


def _header(message: Message, name: str) -> str:
    """A header's words; nothing where it is missing or cannot be read."""
    try:
        return printable(" ".join(str(message.get(name) or "").split()))[:_MAX_HEADER_CHARS]
    except _GIVES_UP:
        return ""


def _date(message: Message) -> str | None:
    try:
        return parsedate_to_datetime(_header(message, "Date")).isoformat()
    except (*_GIVES_UP, OverflowError):
        return None
