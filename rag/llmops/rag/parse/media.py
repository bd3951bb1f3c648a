"""What a file is: its content decides where it has a signature, its extension where it has none.

Knows signatures and names only; opens nothing.
"""

from __future__ import annotations

from llmops.rag.document import RefusedDocumentError

_OFFICE = "application/vnd.openxmlformats-officedocument."
PDF = "application/pdf"
DOCX = f"{_OFFICE}wordprocessingml.document"
PPTX = f"{_OFFICE}presentationml.presentation"
XLSX = f"{_OFFICE}spreadsheetml.sheet"
HTML = "text/html"
MARKDOWN = "text/markdown"
PLAIN = "text/plain"
RST = "text/x-rst"
CSV = "text/csv"
JSONL = "application/jsonl"
NOTEBOOK = "application/x-ipynb+json"
MAIL = "message/rfc822"
MBOX = "application/mbox"
PNG = "image/png"
JPEG = "image/jpeg"
TIFF = "image/tiff"

_LANGUAGES = {
    "c": "c h",
    "c++": "cc cpp cxx hh hpp",
    "csharp": "cs",
    "dart": "dart",
    "elixir": "ex exs",
    "go": "go",
    "java": "java",
    "javascript": "js jsx mjs cjs",
    "julia": "jl",
    "kotlin": "kt kts",
    "lua": "lua",
    "perl": "pl pm",
    "php": "php",
    "protobuf": "proto",
    "python": "py pyi",
    "r": "r",
    "ruby": "rb",
    "rust": "rs",
    "scala": "scala",
    "shell": "sh bash",
    "sql": "sql",
    "swift": "swift",
    "typescript": "ts tsx",
}
_CODE_EXTENSIONS = {f".{ext}": f"text/x-{language}" for language, exts in _LANGUAGES.items() for ext in exts.split()}

EXTENSIONS = {
    ".pdf": PDF,
    ".docx": DOCX,
    ".docm": DOCX,
    ".pptx": PPTX,
    ".pptm": PPTX,
    ".xlsx": XLSX,
    ".xlsm": XLSX,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".txt": PLAIN,
    ".text": PLAIN,
    ".rst": RST,
    ".csv": CSV,
    ".tsv": CSV,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".ipynb": NOTEBOOK,
    ".eml": MAIL,
    ".mbox": MBOX,
    **_CODE_EXTENSIONS,
}
"""What a folder is searched for where the source names no patterns."""

_PICTURES = {".png": PNG, ".jpg": JPEG, ".jpeg": JPEG, ".tif": TIFF, ".tiff": TIFF}
"""Read where a source names them: a folder of documents has many that are no documents."""

_NAMES = {**EXTENSIONS, **_PICTURES}

PICTURES = frozenset(_PICTURES.values())

CODE = frozenset(_CODE_EXTENSIONS.values())

MARKED_UP = frozenset({MARKDOWN, HTML, DOCX, PPTX, XLSX, CSV, JSONL, NOTEBOOK, MAIL, MBOX})
"""Types whose parsed text is Markdown: `#` begins a heading there, and only there."""

IN_PROCESS = frozenset({MARKDOWN, PLAIN, RST, *CODE})
"""Types that are read, not parsed: no hostile grammar is involved, so no child process is needed."""

_BY_SIGNATURE = {PDF: "PDF", DOCX: "DOCX", PPTX: "PPTX", XLSX: "XLSX", PNG: "PNG", JPEG: "JPEG", TIFF: "TIFF"}
_FOLDERS = {DOCX: b"word/", PPTX: b"ppt/", XLSX: b"xl/"}
_BINARY_WORKBOOK = b"xl/workbook.bin"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")
_SIGNATURES = ((b"\x89PNG\r\n", PNG), (b"\xff\xd8\xff", JPEG), (b"II*\0", TIFF), (b"MM\0*", TIFF))
_FOREIGN = (
    (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS (`git lfs pull` gets the file)"),
    (b"GIF8", "a GIF picture"),
    (b"\x7fELF", "a program"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"SQLite format 3\0", "an SQLite database"),
)


def by_name(path: str) -> str:
    """The type an extension promises; plain text where it is unknown."""
    return _NAMES.get(extension(path), PLAIN)


def extension(path: str) -> str:
    """The lower-case extension with its dot; cheaper than a `Path`, as a scan asks for every file."""
    return "." + path.rpartition(".")[2].lower()


def by_content(path: str, data: bytes) -> str:
    """The type of a file that has been read.

    Raises:
        RefusedDocumentError: `encrypted` (office files), `unsupported`, or `broken` (it is that type by name only).
    """
    named = by_name(path)
    if data[:1024].lstrip(b"\xef\xbb\xbf\r\n\t \0").startswith(b"%PDF-") or (named == PDF and b"%PDF-" in data[:1024]):
        return PDF
    if data.startswith(_OLE):
        if _ENCRYPTED_PACKAGE in data:
            raise RefusedDocumentError("encrypted")
        raise RefusedDocumentError("unsupported", "it is an old Office file; save it as .docx, .pptx, .xlsx or PDF")
    if data.startswith(b"PK\x03\x04"):
        return _archive(named, data)
    for signature, picture in _SIGNATURES:
        if data.startswith(signature):
            return picture
    for signature, meaning in _FOREIGN:
        if data.startswith(signature):
            raise RefusedDocumentError("unsupported", f"it is {meaning}, not a document")
    if named in _BY_SIGNATURE:
        raise RefusedDocumentError("broken", f"it does not begin as a {_BY_SIGNATURE[named]} file does")
    return named


def _archive(named: str, data: bytes) -> str:
    """An office file by the folder its parts lie in; its name decides where it holds another one as an inset."""
    if _BINARY_WORKBOOK in data:
        raise RefusedDocumentError("unsupported", "it is a binary workbook; save it as .xlsx")
    for kind in (named, *_FOLDERS):
        if kind in _FOLDERS and _FOLDERS[kind] in data:
            return kind
    if named in _FOLDERS:
        raise RefusedDocumentError("broken", f"the archive holds no {_BY_SIGNATURE[named]} document")
    raise RefusedDocumentError("unsupported", "it is a ZIP archive; unpack it beside the documents")
