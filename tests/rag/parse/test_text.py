"""Characters are kept exactly; encodings are known or said to be guessed; titles come from the document."""

from __future__ import annotations

import pytest

from llmops.rag.document import RefusedDocumentError
from llmops.rag.parse.text import decode, first_line_title, markdown_title

GERMAN = "Die Prüfung der Anlage übernimmt der Wartungsdienst. Größere Schäden müssen gemeldet werden. " * 3


@pytest.mark.parametrize(
    ("data", "text", "metadata"),
    [
        (b"a\r\nb\rc\n", "a\r\nb\rc\n", {}),
        ("Grüße 🙂".encode(), "Grüße 🙂", {}),
        ("\ufeffGrüße".encode(), "Grüße", {"encoding": "utf-8"}),
        ("Grüße".encode("utf-16"), "Grüße", {"encoding": "utf-16-le"}),
        (b"\xfe\xff" + "Grüße".encode("utf-16-be"), "Grüße", {"encoding": "utf-16-be"}),
        ("Grüße".encode("utf-32"), "Grüße", {"encoding": "utf-32-le"}),
    ],
)
def test_known_encodings(data: bytes, text: str, metadata: dict[str, str]) -> None:
    assert decode(data) == (text, metadata)


def test_a_guess_is_a_guess() -> None:
    text, metadata = decode(GERMAN.encode("cp1252"))
    assert text == GERMAN
    assert metadata["encoding_guessed"] is True


def test_russian_in_a_windows_code_page_is_read() -> None:
    russian = "Проверка оборудования выполняется каждые шесть месяцев службой технического обслуживания. " * 3
    text, metadata = decode(russian.encode("cp1251"))
    assert text == russian
    assert metadata["encoding_guessed"] is True


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"PNG\0\0\0\1text", "binary"),
        ("UTF-16 without its mark".encode("utf-16-le"), "wrong_encoding"),
        ("UTF-16 without its mark".encode("utf-16-be"), "wrong_encoding"),
        (b"\xef\xbb\xbf\xff\xff", "wrong_encoding"),
        (b"\x01\x02\x03\x9d\x81" * 100, "wrong_encoding"),
    ],
)
def test_refusals(data: bytes, code: str) -> None:
    with pytest.raises(RefusedDocumentError) as refusal:
        decode(data)
    assert refusal.value.error_code == code


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# The pump\n\ntext", "The pump"),
        ("intro\n\n## Second level ##\n", "Second level"),
        ("Set with lines\n===\n", "Set with lines"),
        ("---\ntitle: 'From the front'\n---\n# Heading\n", "From the front"),
        ("---\nauthor: x\n# not a heading\n---\n# Heading\n", "Heading"),
        ("```sh\n# a comment\n```\n# Real\n", "Real"),
        ("# A [link](http://x) with `code` and **bold** of snake_case\n", "A link with code and bold of snake_case"),
        ("#hashtag\n#\ntext", None),
        ("no heading at all", None),
        ("# " + "long " * 100, "long " * 23 + "long…"),
    ],
)
def test_markdown_title(text: str, title: str | None) -> None:
    assert markdown_title(text) == title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("\n\n Annual report 2025 \nBody text follows.", "Annual report 2025"),
        ("This is a sentence.\nNext.", None),
        ("x" * 200 + "\nrest", None),
        ("=====\ntext", None),
        ("Is this a title?\ntext", "Is this a title?"),
    ],
)
def test_first_line_title(text: str, title: str | None) -> None:
    assert first_line_title(text) == title
