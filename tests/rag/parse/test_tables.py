"""Sheets and delimited files: every row can be understood alone, and says what the sheet shows."""

from __future__ import annotations

import csv
import datetime
import io
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rag.parse.test_parsers import parse
from tests.support import documents

from llmops.rag.config import ChunkingConfig
from llmops.rag.ingest.chunk import chunk
from llmops.rag.parse.displayed import BUILT_IN, displayed

STAFF = [
    ["Name", "Start", "Share", "Salary", "Note"],
    ["Ann", datetime.date(2025, 1, 1), 0.19, 1234567.5, "x < 3 & y"],
    ["Bob", datetime.date(2024, 2, 29), 0.5, -12, ""],
]


def test_a_row_says_what_the_sheet_shows_with_its_headers() -> None:
    formats = {"C2": "0%", "D2": "#,##0.00 [$€-407]", "D3": "#,##0;[Red](#,##0)"}
    parsed = parse("a.xlsx", documents.xlsx({"Staff": STAFF, "Rooms": [["A1"], ["A2"]]}, formats))
    assert parsed.text == (
        "# Staff\n\n"
        "Name: Ann; Start: 2025-01-01; Share: 19%; Salary: 1,234,567.50 €; Note: x < 3 & y\n\n"
        "Name: Bob; Start: 2024-02-29; Share: 0.5; Salary: (12)\n\n"
        "# Rooms\n\n| A1 |\n| --- |\n| A2 |"
    )


def test_every_passage_of_a_long_sheet_names_its_columns_and_its_sheet() -> None:
    rows = [["City", "Inhabitants"], *([f"City {number}", number * 1000] for number in range(300))]
    passages = chunk(parse("a.xlsx", documents.xlsx({"Cities": rows})), ChunkingConfig())
    assert len(passages) > 5
    assert {passage.context for passage in passages} == {"Cities"}
    for passage in passages:
        bodies = passage.text.removeprefix("# Cities").split("\n\n")
        assert all(body.startswith("City: ") and "; Inhabitants: " in body for body in bodies if body)


def test_a_merged_cell_counts_for_every_row() -> None:
    rows = [["Region", "City", "Days"], ["", "Bonn", 1], ["", "Kiel", 2]]
    parsed = parse("a.xlsx", documents.xlsx({"S": rows}, merged={"A2:A3": "North"}))
    assert "Region: North; City: Bonn; Days: 1\n\nRegion: North; City: Kiel; Days: 2" in parsed.text


def test_a_title_above_the_header_is_text_and_a_hidden_sheet_is_not_read() -> None:
    rows = [["Staff list 2025"], [], ["Name", "Days"], ["Ann", 28]]
    parsed = parse("a.xlsx", documents.xlsx({"S": rows, "Secret": [["x", "y"]]}, hidden=["Secret"]))
    assert parsed.text == "# S\n\nStaff list 2025\n\nName: Ann; Days: 28"
    assert parsed.metadata["hidden_sheets"] == 1


@pytest.mark.parametrize(
    ("value", "code", "shown"),
    [
        ("0.30000000000000004", "General", "0.3"),
        ("12345678901234567890", "General", "12345678901234567890"),
        ("-3", "General", "-3"),
        ("2.5", "0", "3"),
        ("0", "#,##0", "0"),
        ("-1234.5", "#,##0.00", "-1,234.50"),
        ("1234567", '#,##0," thousand"', "1,235 thousand"),
        ("7", "000", "007"),
        ("1.5", "0.0##", "1.5"),
        ("0.191", "0.0%", "19.1%"),
        ("12345", "0.00E+00", "1.23E+04"),
        ("-5", '"$"#,##0_);\\("$"#,##0\\)', "($5)"),
        ("0", '0;-0;"none"', "none"),
        ("45658", BUILT_IN[14], "2025-01-01"),
        ("45658.75", "dd.mm.yyyy hh:mm", "01.01.2025 18:00"),
        ("45658.75", "d mmmm yy, h:mm AM/PM", "1 January 25, 6:00 PM"),
        ("0.5", "hh:mm:ss", "12:00:00"),
        ("1.5", "[h]:mm", "36:00"),
        ("1", "yyyy-mm-dd", "1900-01-01"),
        ("-1", "yyyy-mm-dd", "-1"),
        ("5", '[>3]"many";"few"', "5"),
        ("0.5", "# ?/?", "0.5"),
        ("nonsense", "0.00", "nonsense"),
        ("1E+400", "0.00", "1E+400"),
    ],
)
def test_number_formats(value: str, code: str, shown: str) -> None:
    assert displayed(value, code) == shown


@given(number=st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_fixed_decimals_are_pythons(number: Decimal) -> None:
    shown = displayed(str(number), "#,##0.0000")
    assert shown == (f"{number:,.4f}" if number else "0.0000")


@given(value=st.text(max_size=12), code=st.text(max_size=20))
def test_no_format_breaks_a_sheet(value: str, code: str) -> None:
    assert isinstance(displayed(value, code), str)


@given(seconds=st.integers(61 * 86400, 100_000 * 86400))
def test_dates_are_pythons(seconds: int) -> None:
    moment = datetime.datetime(1899, 12, 30, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
    assert displayed(repr(seconds / 86400), "yyyy-mm-dd hh:mm:ss") == f"{moment:%Y-%m-%d %H:%M:%S}"


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.csv", "Name,Days\nAnn,28\n", "Name: Ann; Days: 28"),
        ("a.csv", 'Name;Days\r\n"Ann; ""x""";28\r\n', 'Name: Ann; "x"; Days: 28'),
        ("a.csv", "sep=;\nName;Days\nAnn;1,5\n", "Name: Ann; Days: 1,5"),
        ("a.tsv", "Name\tCity, Country\nAnn\tBonn, Germany\n", "Name: Ann; City, Country: Bonn, Germany"),
        ("a.csv", "a|b\n1|2\n", "a: 1; b: 2"),
        ("a.csv", "1,2\n3,4\n", "| 1 | 2 |\n| --- | --- |\n| 3 | 4 |"),
        ("a.csv", 'Name,Text\nAnn,"# one\n# two"\n', "Name: Ann\nText: # one\n\\# two"),
        ("a.csv", "Name,Name\nAnn,Bob\n", "| Name | Name |\n| --- | --- |\n| Ann | Bob |"),
    ],
)
def test_delimited_files(name: str, data: str, text: str) -> None:
    assert parse(name, data).text == text


CELL = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=12).filter(
    str.strip
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=3, max_size=8), delimiter=st.sampled_from(",;\t|")
)
def test_no_cell_is_lost(rows: list[list[str]], delimiter: str) -> None:
    """Whatever is written with quotes is read back, with a delimiter that has to be found out."""
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([["One", "Two", "Three"], *rows])
    words = "".join(parse("a.csv", out.getvalue()).text.replace("\\#", "#").split())
    for row in rows:
        assert all("".join(cell.split()) in words for cell in row)
