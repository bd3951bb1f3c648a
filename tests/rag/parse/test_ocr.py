"""Scans and pictures: read where an engine is installed and wanted, refused with what to do where not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.rag.parse.test_parsers import LIMITS
from tests.support import documents

from llmops.core.errors import UnavailableError
from llmops.rag.config import ParsingConfig
from llmops.rag.document import Parsed, RefusedDocumentError, Rejected
from llmops.rag.parse import ocr
from llmops.rag.parse.parse import fingerprint, parse_content
from llmops.rag.parse.pool import ParserPool
from llmops.rag.parse.read import Content

WORDS = "The relief valve opens at 7 bar"
READING = replace(LIMITS, ocr="eng")


@pytest.fixture
def engine() -> None:
    if ocr.engine_version() is None:
        if os.environ.get("CI"):
            raise RuntimeError(f"CI needs Tesseract: {ocr.INSTALL}")
        pytest.skip(f"Tesseract is not installed: {ocr.INSTALL}")


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "_engine", lambda: None)
    monkeypatch.setattr(ocr, "_decoder", lambda: None)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_picture_is_read_in_a_confined_process(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"scan.{kind.lower()}"
    path.write_bytes(documents.picture(WORDS, kind))
    with ParserPool(ParsingConfig(ocr="auto", workers=1)) as pool:
        ((_, outcome),) = pool.parse([documents.item(path)])
        assert pool.isolation == "seccomp"
    assert isinstance(outcome, Parsed), outcome
    assert outcome.text == WORDS


@pytest.mark.usefixtures("engine")
def test_every_picture_of_a_fax_is_a_page() -> None:
    parsed = parse_content("a.tiff", Content(documents.picture(WORDS, "TIFF", pages=2), ""), READING)
    assert [parsed.text[page.start : page.end] for page in parsed.pages] == [WORDS, WORDS]


@pytest.mark.usefixtures("engine")
def test_scanned_pages_of_a_pdf_are_read_beside_its_text() -> None:
    parsed = parse_content("a.pdf", Content(documents.pdf_with_a_scan("A page of text.", WORDS), ""), READING)
    assert [parsed.text[page.start : page.end] for page in parsed.pages] == ["A page of text.", WORDS]
    assert parsed.metadata.items() >= {"pages": 2, "pages_read_by_ocr": 1}.items()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n" + bytes(100), documents.picture(WORDS)[:300], b"II*\0" + bytes(40)]
)
def test_a_damaged_picture_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedDocumentError) as refusal:
        parse_content("a.png", Content(data, ""), READING)
    assert refusal.value.error_code in ("broken", "empty")


@pytest.mark.usefixtures("engine")
def test_a_picture_of_a_gigapixel_is_refused_before_it_is_decoded() -> None:
    data = bytearray(documents.picture(WORDS))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(RefusedDocumentError) as refusal:
        parse_content("a.png", Content(bytes(data), ""), READING)
    assert refusal.value.error_code in ("too_large", "broken")


@pytest.mark.usefixtures("engine")
def test_a_language_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(RefusedDocumentError, match="tesseract-ocr-xyz") as refusal:
        parse_content("a.png", Content(documents.picture(WORDS), ""), replace(LIMITS, ocr="xyz"))
    assert refusal.value.error_code == "ocr_missing"


@pytest.mark.usefixtures("no_engine")
def test_without_an_engine_a_scan_says_what_to_install_and_text_is_still_read() -> None:
    for name, data in (("a.png", documents.picture(WORDS)), ("a.pdf", documents.scanned_pdf())):
        with pytest.raises(RefusedDocumentError, match="apt-get install tesseract-ocr") as refusal:
            parse_content(name, Content(data, ""), READING)
        assert refusal.value.error_code == "ocr_missing"
    parsed = parse_content("a.pdf", Content(documents.pdf_with_a_scan("A page of text.", WORDS), ""), READING)
    assert parsed.metadata.items() >= {"pages": 2, "pages_without_text": 1}.items()


def test_where_nothing_is_to_be_read_a_scan_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "scan.png").write_bytes(documents.picture(WORDS))
    (tmp_path / "scan.pdf").write_bytes(documents.scanned_pdf())
    items = [documents.item(tmp_path / name) for name in ("scan.png", "scan.pdf")]
    with ParserPool(ParsingConfig(workers=1)) as pool:
        outcomes = [outcome for _, outcome in pool.parse(items)]
    assert [outcome.code for outcome in outcomes if isinstance(outcome, Rejected)] == ["unsupported", "scanned_only"]
    assert all("parsing.ocr" in outcome.reason for outcome in outcomes if isinstance(outcome, Rejected))


@pytest.mark.usefixtures("engine")
def test_an_index_knows_which_engine_read_it() -> None:
    off, eng, both = (
        fingerprint(config)
        for config in (
            ParsingConfig(),
            ParsingConfig(ocr="auto"),
            ParsingConfig(ocr="on", ocr_languages=("eng", "deu")),
        )
    )
    assert "ocr" not in off
    assert str(eng["ocr"]).endswith(" eng")
    assert str(both["ocr"]).endswith(" eng+deu")


@pytest.mark.usefixtures("no_engine")
def test_on_refuses_to_run_without_an_engine() -> None:
    assert fingerprint(ParsingConfig(ocr="auto"))["ocr"] == "tesseract None eng"
    with pytest.raises(UnavailableError, match="tesseract is not installed"):
        fingerprint(ParsingConfig(ocr="on"))


def test_the_words_that_yaml_takes_for_truth_values() -> None:
    assert (ParsingConfig(ocr=True).ocr, ParsingConfig(ocr=False).ocr) == ("on", "off")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ocr_languages"):
        ParsingConfig(ocr_languages=("../eng",))
