from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from tests.support.records import log_row, thumb

from llmops.core.convert import to_arrow
from llmops.core.errors import NotFoundError
from llmops.core.tables import FEEDBACK, INFERENCE_LOG, spec_of


def test_json_values_become_the_columns_types() -> None:
    row = log_row(
        request_time="2026-01-31T23:30:00.250000-02:00",
        cost_usd="0.000000001",
        input_tokens=3.0,
        status_code=200,
        latency_ms=4,
        asset_version=7,
        tags={"team": "a", "size": 3, "none": None},
        logging_error_codes=["X"],
        request_json={"messages": []},
    )

    arrow, bad = to_arrow(INFERENCE_LOG, [row])

    assert bad == []
    (found,) = arrow.to_pylist(maps_as_pydicts="strict")
    assert found["request_time"] == datetime(2026, 2, 1, 1, 30, 0, 250000, tzinfo=UTC)
    assert found["request_date"] == date(2026, 2, 1)
    assert found["cost_usd"] == Decimal("1e-9")
    assert (found["input_tokens"], found["latency_ms"], found["asset_version"]) == (3, 4.0, "7")
    assert found["tags"] == {"team": "a", "size": "3"}
    assert found["request_json"] == '{"messages":[]}'


def test_microseconds_are_exact() -> None:
    arrow, _ = to_arrow(FEEDBACK, [thumb(event_time=1_767_225_600_123_457)])

    assert arrow.to_pylist()[0]["event_time"] == datetime(2026, 1, 1, 0, 0, 0, 123457, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"layer": None}, "column `layer` is required"),
        ({"typo": 1}, "unknown column `typo`"),
        ({"request_time": "2026-01-31T23:30:00"}, "a time needs a time zone"),
        ({"request_time": "yesterday"}, "column `request_time` (timestamp)"),
        ({"status_code": 2**31}, "too large"),
        ({"status_code": True}, "not a whole number"),
        ({"input_tokens": 1.5}, "not a whole number"),
        ({"cost_usd": "much"}, "column `cost_usd`"),
        ({"cost_usd": 10**9}, "too large"),
        ({"tags": ["a"]}, "not a mapping"),
        ({"logging_error_codes": "a"}, "not a list"),
        ({"latency_ms": "fast"}, "column `latency_ms` (double)"),
        ({"endpoint": 1.5}, "not a text"),
        ({"request_time": 2**63 - 1}, "column `request_time` (timestamp)"),
        ({"cost_usd": float("nan")}, "column `cost_usd`"),
    ],
)
def test_a_row_that_does_not_fit_says_why_and_leaves_the_others(values: dict[str, object], reason: str) -> None:
    arrow, bad = to_arrow(INFERENCE_LOG, [log_row(), log_row(**values), log_row()])

    assert arrow.num_rows == 2
    assert [row.place for row in bad] == [1]
    assert reason in bad[0].reason


def test_no_rows_have_the_schema_too() -> None:
    arrow, bad = to_arrow(INFERENCE_LOG, [])

    assert arrow.schema == INFERENCE_LOG.schema()
    assert bad == []


def test_a_table_is_known_by_its_last_name() -> None:
    assert spec_of("prod.other.feedback") is FEEDBACK
    with pytest.raises(NotFoundError) as error:
        spec_of("dev.serving.feedbak")
    assert error.value.hint == "did you mean `feedback`?"


def test_going_by_column_gives_what_going_by_row_gives() -> None:
    rows = [
        log_row(cost_usd=0.1, tags={"a": 1}, logging_error_codes=["X"], latency_ms=3, status_code=200),
        log_row(request_date="2025-12-31", cost_usd="2", request_time=1_767_225_600_123_457, input_tokens=2**62),
        log_row(response_json="text", latency_ms=1.5, session_id="s"),
    ]

    by_column, none_bad = to_arrow(INFERENCE_LOG, rows)
    by_row, one_bad = to_arrow(INFERENCE_LOG, [*rows, {}])

    assert (none_bad, len(one_bad)) == ([], 1)
    assert by_column == by_row


@pytest.mark.parametrize("values", [{"input_tokens": 2**63}, {"status_code": -(2**31) - 1}, {"endpoint": None}])
def test_what_has_the_plain_types_and_does_not_fit_is_found(values: dict[str, object]) -> None:
    arrow, bad = to_arrow(INFERENCE_LOG, [log_row(**values), log_row()])

    assert (arrow.num_rows, [row.place for row in bad]) == (1, [0])


def test_whole_numbers_are_numbers_however_large() -> None:
    arrow, bad = to_arrow(INFERENCE_LOG, [log_row(latency_ms=2**62 + 1)])

    assert (arrow["latency_ms"].to_pylist(), bad) == ([float(2**62 + 1)], [])
