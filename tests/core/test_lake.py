from __future__ import annotations

import threading
from decimal import Decimal
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem
from tests.support.records import FEEDBACK, LOG, log_row, thumb

from llmops.core import deltafiles
from llmops.core.errors import IntegrityError, NotFoundError, StorageError, UserError
from llmops.core.lake import Lake, Transaction
from llmops.core.spool import Spool
from llmops.core.state import StateConfig


@pytest.fixture
def state(tmp_path: Path) -> StateConfig:
    return StateConfig(dir=tmp_path / "state")


@pytest.fixture
def lake(state: StateConfig) -> Lake:
    return Lake(state)


def test_rows_come_back_as_they_went_in(lake: Lake) -> None:
    row = log_row(tags={"team": "a"}, logging_error_codes=["X"], cost_usd="0.25")
    lake.append(LOG, [row, log_row()])

    (found,) = lake.rows(LOG, {"request_id": row["request_id"]}, ["tags", "logging_error_codes", "cost_usd"])

    assert found == {"tags": {"team": "a"}, "logging_error_codes": ["X"], "cost_usd": Decimal("0.25")}
    assert len(lake.rows(LOG, {"endpoint": ["chat", "other"], "error_class": None})) == 2
    assert lake.rows(LOG, {"endpoint": "other"}) == []


def test_a_table_that_does_not_exist_yet_is_empty(lake: Lake) -> None:
    assert lake.rows(FEEDBACK) == []
    assert lake.query(f"SELECT count(*) AS n FROM {FEEDBACK}") == [{"n": 0}]
    assert lake.tables() == []


def test_logs_are_partitioned_by_day_and_found_by_folder_names(lake: Lake, state: StateConfig) -> None:
    lake.append(LOG, [log_row(request_time="2026-01-31T23:59:59+00:00"), log_row(request_time="2026-02-01T00:00:00Z")])

    table = Path(state.lake) / "dev" / "serving" / "inference_log"

    days = {path.name for path in table.glob("request_date=*")}
    assert days == {"request_date=2026-01-31", "request_date=2026-02-01"}
    assert lake.tables() == [LOG]


TAGS = {"target": "openai/gpt-4o"}


def test_a_log_shows_under_the_other_names_too(lake: Lake) -> None:
    row = log_row(asset_name="dev.docs.chat", asset_version="3", latency_ms=12.6, request_json="{}", tags=TAGS)
    lake.append(LOG, [row])

    (payload,) = lake.query(f"SELECT * FROM {LOG}_payload")
    (requests,) = lake.query(f"SELECT * FROM {LOG}_requests WHERE destination_name = ?", ["openai/gpt-4o"])

    assert payload["databricks_request_id"] == requests["request_id"] == row["request_id"]
    assert payload["execution_duration_ms"] == 13
    assert payload["served_entity_id"] == "dev.docs.chat/3"
    assert requests["request_tags"] == TAGS
    assert payload["request"] == requests["request"] == row["request_json"]
    assert lake.query(f"SELECT count(*) AS n FROM {LOG}_payload", include_pending=True) == [{"n": 1}]


def test_a_repeated_transaction_appends_nothing(lake: Lake) -> None:
    assert lake.append(FEEDBACK, [thumb()], ("segment", 100)) is not None
    assert lake.append(FEEDBACK, [thumb()], ("segment", 100)) is None
    assert lake.append(FEEDBACK, [thumb()], ("segment", 99)) is None
    assert lake.append(FEEDBACK, [thumb()], [Transaction("segment", 100), Transaction("other", 5)]) is not None

    assert len(lake.rows(FEEDBACK)) == 2
    assert lake.committed(FEEDBACK, ["segment", "other", "none"]) == {"segment": 100, "other": 5, "none": -1}


def test_the_same_transaction_from_many_lakes_is_in_once(state: StateConfig) -> None:
    lakes = [Lake(state) for _ in range(6)]
    errors: list[Exception] = []

    def append(lake: Lake) -> None:
        try:
            lake.append(FEEDBACK, [thumb()], ("segment", 1))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=append, args=(lake,)) for lake in lakes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(lakes[0].rows(FEEDBACK)) == 1
    assert all(type(error).__name__ == "ConflictError" for error in errors)


def test_a_wrong_row_appends_nothing(lake: Lake) -> None:
    with pytest.raises(IntegrityError, match="row 1 does not fit the table: unknown column `typo`"):
        lake.append(FEEDBACK, [thumb(), thumb(typo=1)])
    assert lake.rows(FEEDBACK) == []


def test_what_waits_in_the_spool_is_read_along(lake: Lake, state: StateConfig) -> None:
    old, new = thumb(), thumb(rationale='with "quotes" and é')
    lake.append(FEEDBACK, [old])
    with Spool(state.spool) as spool:
        spool.append(LOG, log_row())
        spool.append(FEEDBACK, new)
        spool.append(FEEDBACK, {"not": "a thumb"})

        ids = {row["feedback_id"] for row in lake.rows(FEEDBACK)}
        found = lake.rows(FEEDBACK, {"request_id": new["request_id"], "rationale": new["rationale"]}, ["rationale"])
        counted = lake.query(f"SELECT count(*) AS n FROM {FEEDBACK} WHERE value_num = ?", [1.0], include_pending=True)

    assert ids == {old["feedback_id"], new["feedback_id"]}
    assert found == [{"rationale": new["rationale"]}]
    assert counted == [{"n": 2}]
    assert len(lake.rows(FEEDBACK, include_pending=False)) == 1


def test_the_later_row_of_a_key_wins(lake: Lake, state: StateConfig) -> None:
    first = thumb(value_num=0.0)
    lake.append(FEEDBACK, [first])
    with Spool(state.spool) as spool:
        spool.append(FEEDBACK, {**first, "value_num": 1.0})

    assert [row["value_num"] for row in lake.rows(FEEDBACK)] == [1.0]


def test_queries_join_by_name_and_take_values_apart_from_the_text(lake: Lake) -> None:
    row = log_row(requester="o'hara")
    lake.append(LOG, [row])
    lake.append(FEEDBACK, [thumb(request_id=row["request_id"])])

    sql = f"SELECT f.value_num FROM {FEEDBACK} f JOIN {LOG} l USING (request_id) WHERE l.requester = $who"

    assert lake.query(sql, {"who": "o'hara"}) == [{"value_num": 1.0}]
    assert lake.query(sql, {"who": "x' OR '1'='1"}) == []


@pytest.mark.parametrize("sql", ["SELEKT 1", "SELECT * FROM read_csv('/etc/hostname')", "SELECT * FROM dev.a.nothing"])
def test_a_query_that_cannot_run_is_the_users(lake: Lake, sql: str) -> None:
    with pytest.raises(UserError, match="the query failed"):
        lake.query(sql)


def test_an_unknown_column_or_table_is_named(lake: Lake) -> None:
    with pytest.raises(NotFoundError, match="no column `typo`"):
        lake.rows(FEEDBACK, {"typo": 1})
    with pytest.raises(NotFoundError, match="no table"):
        lake.rows("dev.serving.feedbacks")
    with pytest.raises(UserError, match="three-level"):
        lake.rows("feedback")


def test_maintenance_merges_files_and_keeps_rows_and_transactions(lake: Lake, state: StateConfig) -> None:
    for place in range(12):
        lake.append(FEEDBACK, [thumb()], ("segment", place))

    done = lake.maintain(FEEDBACK)

    assert (done["files_merged"], done["files_written"]) == (12, 1)
    fresh = Lake(state)
    assert len(fresh.rows(FEEDBACK)) == 12
    assert fresh.committed(FEEDBACK, ["segment"]) == {"segment": 11}
    assert lake.append(FEEDBACK, [thumb()], ("segment", 12)) is not None


def test_a_reader_follows_another_process_table(lake: Lake, state: StateConfig) -> None:
    other = Lake(state)
    other.append(FEEDBACK, [thumb()])
    assert len(lake.rows(FEEDBACK)) == 1
    for _ in range(3):
        other.append(FEEDBACK, [thumb()])
    other.maintain(FEEDBACK)
    assert len(lake.rows(FEEDBACK)) == 4


@pytest.mark.parametrize("damage", ["empty", "half", "data"])
def test_a_commit_torn_by_a_power_cut_is_set_aside(lake: Lake, state: StateConfig, damage: str) -> None:
    lake.append(FEEDBACK, [thumb()], ("segment", 1))
    version = lake.append(FEEDBACK, [thumb()], ("segment", 2))
    assert version is not None
    table = Path(state.lake) / "dev" / "serving" / "feedback"
    entry = table / "_delta_log" / f"{version:020}.json"
    if damage == "data":
        (added,) = deltafiles.added_files(table, version)
        added.write_bytes(bytes(added.stat().st_size))
    else:
        entry.write_bytes(entry.read_bytes()[: 0 if damage == "empty" else 300])

    mended = Lake(state)

    assert mended.mend(FEEDBACK) == [version]
    assert mended.mend(FEEDBACK) == []
    assert len(mended.rows(FEEDBACK)) == 1
    assert mended.append(FEEDBACK, [thumb()], ("segment", 2)) == version


def test_a_broken_log_is_said(lake: Lake, state: StateConfig) -> None:
    lake.append(FEEDBACK, [thumb()])
    log = Path(state.lake) / "dev" / "serving" / "feedback" / "_delta_log"
    for entry in log.iterdir():
        entry.write_text("{")

    with pytest.raises(IntegrityError, match="cannot be opened"):
        Lake(state).rows(FEEDBACK)


def test_a_lake_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file")

    with pytest.raises(StorageError, match="cannot be read or written"):
        Lake(StateConfig(dir=tmp_path)).append(FEEDBACK, [thumb()])


def test_arrow_never_calls_python_to_read_local_files(lake: Lake) -> None:
    """A thread of Arrow's inside Python while the interpreter ends aborts the process, after the work was done."""
    lake.append(LOG, [log_row()])
    stored, _ = lake._snapshot(LOG, None, include_pending=False)
    assert isinstance(stored.filesystem.base_fs, LocalFileSystem)
