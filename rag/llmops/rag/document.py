"""What travels between sources, parsers, the chunker and the index: one document, found, refused or read.

Knows the shape of a document only: no file system, no file format, no third-party package (parser processes import it).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file truly lies: what is put in its way later, as a link, is not followed.

    Attributes:
        root: a folder that somebody configured, by whatever links.
        inside: the way from there, on which no link lay when it was looked at.
    """

    root: str
    inside: str

    @classmethod
    def of(cls, path: str) -> Place:
        """A file by its path alone: the folder's links are followed, the file is none."""
        return cls(*os.path.split(path))


@dataclass(frozen=True, slots=True)
class SourceItem:
    """A document where it lies, not read yet.

    Attributes:
        uri: names the document for good: its path from the working folder, in POSIX form, exactly as on disk. Documents
            outside the working folder have their absolute path. Show it through `unicodedata.normalize("NFC", uri)`.
        path: the same file by the name that it was found under, which tells its type.
        place: the same file, for opening.
        size: bytes, at the time of the scan.
        mtime_ns: last change, at the time of the scan.
        acl: groups that may read it.
        metadata: facts of its source, to filter by.
    """

    uri: str
    path: str
    place: Place
    size: int
    mtime_ns: int
    acl: tuple[str, ...] = ("everyone",)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document (or, with `subtree`, a whole folder) that cannot be read, and why: one row of the quarantine.

    Attributes:
        uri: as `SourceItem.uri`.
        reason: one sentence for a person.
        code: one word for a program, of `CODES`.
        subtree: everything under `uri` is unknown, which is not the same as deleted.
    """

    uri: str
    reason: str
    code: str
    subtree: bool = False


CODES: Mapping[str, str] = {
    "bad_name": "the file name is not valid UTF-8",
    "binary": "the file holds no text",
    "broken": "the file is damaged",
    "changed_while_reading": "the file was written to while it was read, twice",
    "crashed": "the parser crashed on this file",
    "deleted": "the same bytes were deleted under another name",
    "empty": "there is no text in it",
    "encrypted": "a password is needed",
    "memory": "parsing needs more memory than allowed",
    "ocr_missing": "the text is in pictures, and what reads them is not installed",
    "outside_root": "a link leads out of the source's folder",
    "scanned_only": "the pages are pictures; there is no text layer",
    "symlink_loop": "a link leads back to itself",
    "timeout": "parsing took longer than allowed",
    "too_large": "the file is larger than allowed",
    "too_much_text": "the text is longer than allowed",
    "unreachable": "its source did not give it",
    "unreadable": "the file cannot be opened",
    "unsupported": "no parser for this type",
    "wrong_encoding": "the characters cannot be decoded",
    "xml_entities": "the XML declares entities, which no office program writes",
    "zip_bomb": "the archive unpacks to more than allowed",
}
"""Every code a `Rejected` may carry, with its meaning."""


@dataclass(frozen=True, slots=True)
class PageSpan:
    """A page's place in the document's text; `number` counts from 1, as a PDF viewer does."""

    number: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document's text, which all offsets (pages, chunks, citations) count characters of.

    Attributes:
        title: the document's own title, or None; never its file name.
        text: Markdown, reStructuredText, source code and plain text keep the file's characters exactly (line ends
            included), less a byte order mark.
        pages: ordered and disjoint; empty for media without pages.
        media_type: what the document is, such as `application/pdf`.
        metadata: what the parser learned, such as `{"encoding": "cp1252", "encoding_guessed": True}`.
        sha256: of the file's bytes that were parsed.
    """

    title: str | None
    text: str
    pages: tuple[PageSpan, ...]
    media_type: str
    metadata: Mapping[str, Any]
    sha256: str


class RefusedDocumentError(UserError):
    """One document is not fit to be indexed; becomes a `Rejected`, and the run goes on."""

    code = "broken"

    def __init__(self, code: str, detail: str | None = None) -> None:
        super().__init__(detail or CODES[code], code=code)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.error_code, self.what)

    def as_rejected(self, uri: str) -> Rejected:
        return Rejected(uri, self.what, self.error_code)
