"""E-mail: the message and each attachment by its own parser; whoever sent it can harm nobody."""

from __future__ import annotations

from contextlib import suppress
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rag.parse.test_parsers import parse
from tests.support import documents

from llmops.rag.document import RefusedDocumentError
from llmops.rag.outline import outline


def message(subject: str = "Pümp", text: str = "Hello Bob") -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "Ann <ann@x.org>", "bob@x.org", subject
    made["Date"] = "Sat, 29 Nov 2025 10:00:00 +0100"
    made.set_content(text)
    return made


def attach(made: EmailMessage, name: str, data: bytes) -> None:
    made.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)


def test_headers_are_text_and_metadata() -> None:
    parsed = parse("a.eml", message().as_bytes())
    assert parsed.title == "Pümp"
    assert parsed.text == (
        "# Pümp\n\nFrom: Ann <ann@x.org>\nTo: bob@x.org\nDate: Sat, 29 Nov 2025 10:00:00 +0100\n\nHello Bob"
    )
    assert parsed.metadata == {"from": "Ann <ann@x.org>", "to": "bob@x.org", "date": "2025-11-29T10:00:00+01:00"}


def test_the_formatted_text_is_read_once_and_runs_nothing() -> None:
    made = message()
    rows = "".join(f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in ("ab", "12"))
    page = f"<p>Hello <b>Bob</b></p><script>steal()</script><table>{rows}</table>"
    made.add_alternative(page, subtype="html")
    text = parse("a.eml", made.as_bytes()).text
    assert text.count("Hello Bob") == 1
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |" in text
    assert "steal" not in text


def test_attachments_are_parsed_by_their_own_parsers() -> None:
    made = message()
    attach(made, "leave.docx", documents.docx(headings={"Leave": "28 days."}))
    attach(made, "staff.xlsx", documents.xlsx({"Staff": [["Name", "Days"], ["Ann", 28]]}))
    attach(made, "pump.py", b"def start():\n    pass\n")
    attach(made, "again.eml", message("Inner", "inner text").as_bytes())
    made.add_attachment(message("Forwarded", "forwarded text"))
    parsed = parse("a.eml", made.as_bytes())
    assert [heading.path[1:] for heading in outline(parsed).headings] == [
        (),
        ("Attachment: leave.docx",),
        ("Attachment: leave.docx", "Leave"),
        ("Attachment: staff.xlsx",),
        ("Attachment: staff.xlsx", "Staff"),
        ("Attachment: pump.py",),
        ("Inner",),
        ("Forwarded",),
    ]
    for words in ("28 days.", "Name: Ann; Days: 28", "```python\ndef start():", "inner text", "forwarded text"):
        assert words in parsed.text
    assert parsed.metadata["attachments"][:3] == ["leave.docx", "staff.xlsx", "pump.py"]


def test_a_bad_attachment_costs_only_itself() -> None:
    made = message()
    attach(
        made, "bomb.docx", documents.replace_part(documents.docx(headings={}), "word/document.xml", b" " * 50_000_000)
    )
    attach(made, "inner.zip", b"PK\x03\x04" + bytes(50))
    attach(made, "good.txt", b"good words")
    parsed = parse("a.eml", made.as_bytes())
    assert "Hello Bob" in parsed.text
    assert "good words" in parsed.text
    assert [reason.split(":")[0] for reason in parsed.metadata["attachments_refused"]] == ["bomb.docx", "inner.zip"]
    assert "Attachment: bomb" not in parsed.text


def test_messages_within_messages_end_somewhere() -> None:
    made = message("Level 0")
    for level in range(1, 9):
        outer = message(f"Level {level}")
        outer.add_attachment(made)
        made = outer
    parsed = parse("a.eml", made.as_bytes())
    assert "Level 3" in parsed.text
    assert "Level 2" not in parsed.text


def test_too_many_attachments_are_refused() -> None:
    made = message()
    for number in range(120):
        attach(made, f"{number}.txt", b"x")
    with pytest.raises(RefusedDocumentError, match="attachments"):
        parse("a.eml", made.as_bytes())


def test_a_mailbox_is_its_messages() -> None:
    letters = [message("One", ">From here\ntext"), message("Two", "second")]
    mailbox = b"".join(b"From ann@x.org Sat Nov 29 10:00:00 2025\n" + one.as_bytes() + b"\n" for one in letters)
    parsed = parse("a.mbox", mailbox)
    assert [heading.path for heading in outline(parsed).headings] == [("One",), ("Two",)]
    assert parsed.metadata == {"messages": 2}


GOOD = message()
attach(GOOD, "t.csv", b"Name,Days\nAnn,28\n")
MAIL = GOOD.as_bytes()


@settings(max_examples=150, deadline=None)
@given(
    place=st.integers(0, len(MAIL)),
    cut=st.integers(0, 40),
    put=st.binary(max_size=20) | st.sampled_from([b"\n\n", b"--", b"Content-Type: multipart/x\n", b"=?utf-8?q?=ff?="]),
)
def test_a_damaged_message_is_read_or_refused(place: int, cut: int, put: bytes) -> None:
    with suppress(RefusedDocumentError):
        assert parse("a.eml", MAIL[:place] + put + MAIL[place + cut :]).text
