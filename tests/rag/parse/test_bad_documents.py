"""Every kind of bad document ends in a rejection with its own code, and nothing else is lost."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support import documents

from llmops.rag.config import ParsingConfig
from llmops.rag.document import CODES, Parsed, Rejected
from llmops.rag.parse import read as reading
from llmops.rag.parse.pool import ParserPool

GOOD_DOCX = documents.docx(headings={"Leave": "Everyone has 28 days."})
GOOD_XLSX = documents.xlsx({"Staff": [["Name", "Days"], ["Ann", 28]]})
GOOD_PPTX = documents.pptx({"Pumps": ["one"]})
SHEET, SLIDE = "xl/worksheets/sheet1.xml", "ppt/slides/slide1.xml"
BILLION_LAUGHS = '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
READ_A_FILE = '<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


@pytest.fixture(scope="module")
def pool() -> Iterator[ParserPool]:
    with ParserPool(ParsingConfig(max_bytes=150_000_000, max_text_chars=50_000_000, workers=1)) as shared:
        yield shared


def bomb(part: str = "word/document.xml") -> bytes:
    """A Word file of 100 kB that unpacks to 100 MB."""
    return documents.replace_part(GOOD_DOCX, part, b"<a>" + b" " * 100_000_000 + b"</a>")


def lying_archive() -> bytes:
    """A Word file whose directory claims that its main part is 10 bytes long."""
    archive = bytearray(documents.replace_part(GOOD_DOCX, "word/document.xml", b"<a>" + b" " * 5_000_000 + b"</a>"))
    with zipfile.ZipFile(io.BytesIO(bytes(archive))) as opened:
        size = opened.getinfo("word/document.xml").file_size.to_bytes(4, "little")
    return bytes(archive.replace(size, (10).to_bytes(4, "little")))


def locked_office_file() -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "EncryptedPackage".encode("utf-16-le") + bytes(100)


def encrypted_archive() -> bytes:
    """The first entry of the directory carries the flag of an encrypted part."""
    archive = bytearray(GOOD_DOCX)
    archive[archive.index(b"PK\x01\x02") + 8] |= 1
    return bytes(archive)


def in_sheet(doctype: str, words: str) -> bytes:
    """A workbook whose sheet has this document type declaration."""
    row = f'<row><c t="inlineStr"><is><t>{words}</t></is></c></row>'
    xml = f"{doctype}<worksheet xmlns='x'><sheetData>{row}</sheetData></worksheet>"
    return documents.replace_part(GOOD_XLSX, SHEET, xml.replace("<!DOCTYPE l", "<!DOCTYPE worksheet").encode())


def in_slide(doctype: str, words: str) -> bytes:
    return documents.replace_part(GOOD_PPTX, SLIDE, f"{doctype}<sld><t>{words}</t></sld>".encode())


def wide_sheet(chars: int) -> bytes:
    """A small workbook that repeats one long text until it would fill memory."""
    strings = f"<sst xmlns='x'><si><t>{'word ' * 6000}</t></si></sst>"
    rows = '<row><c t="s"><v>0</v></c></row>' * (chars // 30_000)
    swollen = documents.replace_part(GOOD_XLSX, "xl/sharedStrings.xml", strings.encode())
    xml = f"<worksheet xmlns='x'><sheetData>{rows}</sheetData></worksheet>"
    return documents.replace_part(swollen, SHEET, xml.encode())


def nested_mail(depth: int) -> bytes:
    """Parts within parts within parts."""
    heads = [f"Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n" for level in range(depth)]
    return ("From: a@x.org\n" + "".join(heads) + "\ntext\n").encode()


def many_parts(count: int) -> bytes:
    return b"From: a@x.org\nContent-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * count + b"--b--\n"


CASES: list[tuple[str, Callable[[], bytes], str]] = [
    ("garbage.pdf", lambda: b"this is no PDF", "broken"),
    ("header-only.pdf", lambda: b"%PDF-1.7\nnothing follows", "broken"),
    ("cut.pdf", lambda: documents.pdf(["text " * 500])[:600], "broken"),
    ("locked.pdf", lambda: documents.encrypted_pdf("secret"), "encrypted"),
    ("zero.pdf", lambda: b"", "empty"),
    ("blank.pdf", lambda: documents.pdf(["", ""]), "empty"),
    ("scan.pdf", documents.scanned_pdf, "scanned_only"),
    ("garbage.docx", lambda: b"no archive", "broken"),
    ("cut.docx", lambda: GOOD_DOCX[: len(GOOD_DOCX) // 2], "broken"),
    ("sheet.docx", lambda: documents.replace_part(b"PK\x05\x06" + bytes(18), "xl/workbook.xml", b"<x/>"), "broken"),
    ("not-xml.docx", lambda: documents.replace_part(GOOD_DOCX, "word/document.xml", b"<w:document"), "broken"),
    ("locked.docx", locked_office_file, "encrypted"),
    ("locked-zip.docx", encrypted_archive, "encrypted"),
    ("bomb.docx", bomb, "zip_bomb"),
    ("lying.docx", lying_archive, "broken"),
    ("laughs.docx", lambda: documents.docx_with_body(BILLION_LAUGHS, "&b;"), "xml_entities"),
    ("external.docx", lambda: documents.docx_with_body(READ_A_FILE, "&x;"), "xml_entities"),
    ("external16.docx", lambda: documents.docx_with_body(READ_A_FILE, "&x;", "utf-16"), "xml_entities"),
    ("empty.docx", lambda: documents.docx(headings={}), "empty"),
    ("empty.xlsx", lambda: documents.xlsx({"Blank": []}), "empty"),
    ("laughs.xlsx", lambda: in_sheet(BILLION_LAUGHS, "&b;"), "xml_entities"),
    ("external.xlsx", lambda: in_sheet(READ_A_FILE, "&x;"), "xml_entities"),
    ("bomb.xlsx", lambda: documents.replace_part(GOOD_XLSX, SHEET, b"<a>" + b" " * 12_000_000 + b"</a>"), "zip_bomb"),
    ("cut.xlsx", lambda: documents.replace_part(GOOD_XLSX, SHEET, b"<worksheet><row>"), "broken"),
    ("binary.xlsx", lambda: documents.replace_part(GOOD_XLSX, "xl/workbook.bin", b"x"), "unsupported"),
    ("wide.xlsx", lambda: wide_sheet(60_000_000), "too_much_text"),
    ("laughs.pptx", lambda: in_slide(BILLION_LAUGHS, "&b;"), "xml_entities"),
    ("bomb.pptx", lambda: documents.replace_part(GOOD_PPTX, SLIDE, b"<a>" + b" " * 12_000_000 + b"</a>"), "zip_bomb"),
    ("empty.pptx", lambda: documents.pptx({}), "empty"),
    ("noise.csv", lambda: bytes(range(1, 32)) * 40 + b"\x81\x8d\x8f\x90\x9d" * 20, "wrong_encoding"),
    ("half.csv", lambda: b"\xff\xfea\x00\x00\xd8", "wrong_encoding"),
    ("cut.jsonl", lambda: b'{"a": 1}\n{"a": ', "broken"),
    ("deep.jsonl", lambda: b"[" * 100_000, "broken"),
    ("deep2.jsonl", lambda: b'{"a":' * 500 + b"1" + b"}" * 500, "broken"),
    ("cut.ipynb", lambda: b'{"cells": [', "broken"),
    ("list.ipynb", lambda: b"[]", "broken"),
    ("none.ipynb", lambda: b'{"cells": []}', "empty"),
    ("prose.eml", lambda: b"just some words\n", "broken"),
    ("deep.eml", lambda: nested_mail(200), "broken"),
    ("very-deep.eml", lambda: nested_mail(5000), "broken"),
    ("parts.eml", lambda: many_parts(3000), "broken"),
    (
        "locked.eml",
        lambda: b"From: a@x.org\nContent-Type: multipart/encrypted; boundary=b\n\n--b\n\nx\n--b--\n",
        "encrypted",
    ),
    ("prose.mbox", lambda: b"no mailbox", "broken"),
    ("scan.png", lambda: documents.picture("words"), "unsupported"),
    ("garbage.png", lambda: b"no picture", "broken"),
    ("picture.py", lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "unsupported"),
    ("zeros.py", lambda: b"x = 1" + bytes(10), "binary"),
    ("empty.html", lambda: b"<html><body><script>var a = 1;</script></body></html>", "empty"),
    ("zero.md", lambda: b"", "empty"),
    ("blank.txt", lambda: b" \r\n\t \n", "empty"),
    ("picture.md", lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "unsupported"),
    ("pointer.md", lambda: LFS_POINTER, "unsupported"),
    ("pointer.pdf", lambda: LFS_POINTER, "unsupported"),
    ("old.txt", lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "unsupported"),
    ("archive.txt", lambda: documents.replace_part(b"PK\x05\x06" + bytes(18), "a.txt", b"a"), "unsupported"),
    ("zeros.txt", lambda: b"text" + bytes(10) + b"text", "binary"),
    ("markless.txt", lambda: "no byte order mark".encode("utf-16-le"), "wrong_encoding"),
    ("half.txt", lambda: b"\xff\xfea\x00\x00\xd8", "wrong_encoding"),
    ("noise.txt", lambda: bytes(range(1, 32)) * 40 + b"\x81\x8d\x8f\x90\x9d" * 20, "wrong_encoding"),
    ("line.txt", lambda: b"a" * 100_000_000, "too_much_text"),
]


@pytest.mark.parametrize(("name", "content", "code"), CASES, ids=[case[0] for case in CASES])
def test_bad_document(pool: ParserPool, tmp_path: Path, name: str, content: Callable[[], bytes], code: str) -> None:
    (tmp_path / name).write_bytes(content())
    good = tmp_path / "good.docx"
    good.write_bytes(GOOD_DOCX)
    results = {
        item.uri: outcome for item, outcome in pool.parse(documents.item(tmp_path / n) for n in (name, "good.docx"))
    }
    rejected = results[name]
    assert isinstance(rejected, Rejected), rejected.text[:200]
    assert rejected.code == code, rejected.reason
    assert code in CODES
    assert rejected.uri == name
    assert rejected.reason
    assert isinstance(results["good.docx"], Parsed)


def test_a_bomb_that_is_never_unpacked_harms_nobody(pool: ParserPool, tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    path.write_bytes(bomb("word/media/picture.xml"))
    ((_, outcome),) = pool.parse([documents.item(path)])
    assert isinstance(outcome, Parsed)
    assert "28 days" in outcome.text


def test_no_word_of_an_external_file_gets_in(pool: ParserPool, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(f"{READ_A_FILE}<html><body><p>Before the entity &x; after it.</p></body></html>")
    ((_, outcome),) = pool.parse([documents.item(path)])
    assert isinstance(outcome, Parsed)
    assert "root:" not in outcome.text
    assert "Before the entity" in outcome.text


@pytest.mark.parametrize("name", ["huge.pdf", "huge.txt", "huge.docx"])
def test_a_file_of_2_gb_is_never_read(
    pool: ParserPool, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = documents.item(documents.sparse(tmp_path / name, 2 << 30))
    monkeypatch.setattr(reading, "_read_exactly", None)
    ((_, outcome),) = pool.parse([item])
    assert outcome == Rejected(name, "2,147,483,648 bytes; `max_bytes` is 150,000,000", "too_large")


def test_a_file_that_grew_since_the_scan_is_too_large_too(pool: ParserPool, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("small")
    item = documents.item(path)
    documents.sparse(path, 2 << 30)
    ((_, outcome),) = pool.parse([item])
    assert isinstance(outcome, Rejected)
    assert outcome.code == "too_large"


@pytest.mark.parametrize(("writes", "expected"), [(1, "new"), (2, "changed_while_reading")])
def test_a_file_that_changes_while_it_is_read(
    pool: ParserPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int, expected: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    item = documents.item(path)
    read_exactly, left = reading._read_exactly, writes

    def write_behind_its_back(descriptor: int, size: int) -> bytes:
        nonlocal left
        data = read_exactly(descriptor, size)
        if left:
            left -= 1
            path.write_text("new")
        return data

    monkeypatch.setattr(reading, "_read_exactly", write_behind_its_back)
    ((_, outcome),) = pool.parse([item])
    assert (outcome.text if isinstance(outcome, Parsed) else outcome.code) == expected


def test_a_pipe_and_a_folder_do_not_block(pool: ParserPool, tmp_path: Path) -> None:
    pipe, folder, gone = tmp_path / "pipe.txt", tmp_path / "folder.pdf", tmp_path / "gone.md"
    os.mkfifo(pipe)
    folder.mkdir()
    gone.write_text("a")
    items = [documents.item(pipe), documents.item(folder), documents.item(gone)]
    gone.unlink()
    results = [outcome for _, outcome in pool.parse(items)]
    assert [outcome.code for outcome in results if isinstance(outcome, Rejected)] == ["unreadable"] * 3


def test_a_file_without_permission_is_unreadable() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "a.md"
        path.write_text("secret")
        path.chmod(0)
        assert _unprivileged(lambda: _code_of(path)) == "unreadable"


def _code_of(path: Path) -> str:
    ((_, outcome),) = ParserPool(ParsingConfig()).parse([documents.item(path)])
    return outcome.code if isinstance(outcome, Rejected) else "read"


def _unprivileged(act: Callable[[], str]) -> str:
    """What `act` gives in a process that is not root."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            os.write(writer, act().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return said
