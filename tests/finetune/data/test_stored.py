"""Rows of the lake, recorded thumbs and made rows; only the requester's own and last thumb counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.records import FEEDBACK, LOG, log_row, thumb
from tests.support.tokenizers import chat, finetune_job

from llmops.core.errors import NotFoundError, UserError
from llmops.core.lake import Lake
from llmops.core.state import StateConfig
from llmops.core.tables import Column, TableSpec
from llmops.finetune.config import SourceConfig
from llmops.finetune.data.formats import example
from llmops.finetune.data.sources import open_source, read


@pytest.fixture
def state(tmp_path: Path) -> StateConfig:
    return StateConfig(dir=tmp_path)


def rows_of(state: StateConfig, uri: str, **more: Any) -> list[dict[str, Any]]:
    return [row for row, _ in read(SourceConfig(uri=uri, **more), state)]


def exchange(requester: str, answer: str = "an answer", **more: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": "a question"}]}
    bodies = {"request_json": json.dumps(asked), "response_json": json.dumps({"content": answer})}
    return log_row(**{"requester": requester, "status_code": 200, **bodies, **more})


def test_only_the_requesters_own_and_last_thumb_counts(state: StateConfig) -> None:
    mine, failed, cut, foreign = (
        exchange("anna"),
        exchange("anna", status_code=500),
        exchange("anna", response_json='{"content": "an ans'),
        exchange("anna"),
    )
    lake = Lake(state)
    lake.append(LOG, [mine, failed, cut, foreign])
    later = "2026-02-01T00:00:00Z"
    given = [
        thumb(request_id=mine["request_id"], source_id="anna", value_num=1.0),
        thumb(request_id=mine["request_id"], source_id="anna", value_num=0.0, event_time=later),
        thumb(request_id=mine["request_id"], source_id="mallory", value_num=1.0, event_time=later),
        thumb(request_id=foreign["request_id"], source_id="mallory"),
        *(thumb(request_id=one["request_id"], source_id="anna") for one in (failed, cut)),
        thumb(source_id="anna"),
    ]
    lake.append(FEEDBACK, given)
    (row,) = rows_of(state, "feedback:")
    found = example(row, "feedback/1")
    assert (row["label"], row["feedback_id"], row["requester"]) == (False, given[1]["feedback_id"], "anna")
    assert found.content.as_json() == {
        "prompt": [{"role": "user", "content": "a question"}], "completion": "an answer", "liked": False,
    }  # fmt: skip
    assert found.by
    assert "anna" not in found.by
    assert rows_of(state, "feedback:dev.serving") == [row]


def test_no_feedback_yet_is_no_row(state: StateConfig) -> None:
    assert rows_of(state, "feedback:") == []


def test_a_table_is_read_at_its_version(state: StateConfig) -> None:
    lake, name = Lake(state), "dev.support.chats"
    lake.declare(name, TableSpec("chats", (Column("prompt"), Column("completion"), Column("stars", "long"))))
    first = lake.append(name, [{"prompt": "a", "completion": "b", "stars": 1}])
    before = open_source(SourceConfig(uri=f"table:{name}"), state).identity()
    lake.append(name, [{"prompt": "c", "completion": "d", "stars": 5}])
    after = open_source(SourceConfig(uri=f"table:{name}"), state).identity()
    assert before.version == first != after.version
    assert before.digest != after.digest
    assert [row["prompt"] for row in rows_of(state, f"table:{name}@{first}")] == ["a"]
    assert [row["prompt"] for row in rows_of(state, f"table:{name}", where="stars > 3")] == ["c"]
    with pytest.raises(NotFoundError):
        rows_of(state, "table:dev.support.chat")


def numbers(count: int = 2) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield chat(f"{number}", "n")


def test_a_function_makes_rows_and_takes_values(state: StateConfig) -> None:
    uri = f"make:{__name__}:numbers"
    assert len(rows_of(state, uri)) == 2
    assert len(rows_of(state, f"{uri}?count=5", limit=4)) == 4
    with pytest.raises(UserError, match="does not take"):
        rows_of(state, f"{uri}?size=5")
    with pytest.raises(NotFoundError):
        rows_of(state, f"{uri}s")


def test_addresses_are_not_fetched(state: StateConfig) -> None:
    with pytest.raises(UserError, match="folders only"):
        open_source(finetune_job("https://example.com/rows.jsonl").data.sources[0], state)
