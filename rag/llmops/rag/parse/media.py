"""What a file is: its content decides where it has a signature, its extension where it has none.

Knows signatures and names only; opens nothing.
"""

from __future__ import annotations

from llmops.rag.document import RefusedDocumentError

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HTML = "text/html"
MARKDOWN = "text/markdown"
PLAIN = "text/plain"

EXTENSIONS = {
    ".pdf": PDF,
    ".docx": DOCX,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".txt": PLAIN,
    ".text": PLAIN,
    ".rst": PLAIN,
}
"""What a folder is searched for where the source names no patterns."""

MARKED_UP = frozenset({MARKDOWN, HTML, DOCX})
"""Types whose parsed text is Markdown: `#` begins a heading there, and only there."""

IN_PROCESS = frozenset({MARKDOWN, PLAIN})
"""Types that are read, not parsed: no hostile grammar is involved, so no child process is needed."""

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")
_FOREIGN = (
    (b"\x89PNG\r\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"\x7fELF", "a program"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"SQLite format 3\0", "an SQLite database"),
)


def by_name(path: str) -> str:
    """The type an extension promises; plain text where it is unknown."""
    return EXTENSIONS.get(extension(path), PLAIN)


def extension(path: str) -> str:
    """The lower-case extension with its dot; cheaper than a `Path`, as a scan asks for every file."""
    return "." + path.rpartition(".")[2].lower()


def by_content(path: str, data: bytes) -> str:
    """The type of a file that has been read.

    Raises:
        RefusedDocumentError: `encrypted` (office files), `unsupported`, or `broken` (a PDF or DOCX by name only).
    """
    named = by_name(path)
    if data[:1024].lstrip(b"\xef\xbb\xbf\r\n\t \0").startswith(b"%PDF-") or (named == PDF and b"%PDF-" in data[:1024]):
        return PDF
    if data.startswith(_OLE):
        if _ENCRYPTED_PACKAGE in data:
            raise RefusedDocumentError("encrypted")
        raise RefusedDocumentError("unsupported", "it is an old Office file; save it as .docx or PDF")
    if data.startswith(b"PK\x03\x04"):
        return _archive(named, data)
    for signature, meaning in _FOREIGN:
        if data.startswith(signature):
            raise RefusedDocumentError("unsupported", f"it is {meaning}, not a document")
    if named in (PDF, DOCX):
        raise RefusedDocumentError("broken", f"it does not begin as a {'PDF' if named == PDF else 'DOCX'} file does")
    return named


def _archive(named: str, data: bytes) -> str:
    if b"word/" in data:
        return DOCX
    if named == DOCX:
        raise RefusedDocumentError("broken", "the archive holds no Word document")
    raise RefusedDocumentError("unsupported", "it is a ZIP archive; unpack it beside the documents")
