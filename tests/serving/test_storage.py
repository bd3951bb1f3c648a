"""The default backing over a real state folder: keys, spool, lake and drainer as `llmops serve` uses them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llmops.core.drain import Drainer
from llmops.core.errors import UnavailableError
from llmops.core.ids import new_id
from llmops.core.lake import Lake
from llmops.core.spool import Spool, SpoolConfig
from llmops.core.state import StateConfig
from llmops.serving.config import EndpointConfig, ServeConfig
from llmops.serving.judgements import Wanted, read_judgements
from llmops.serving.record import Thumb, feedback_rows
from llmops.serving.storage import SpoolTables, note_served, standard_backing

CONFIG = ServeConfig()


def exchange_row(request_id: str, requester: str = "local", **more: Any) -> dict[str, Any]:
    return {
        "invocation_id": new_id(),
        "layer": "serving",
        "request_id": request_id,
        "request_time": "2026-11-23T21:00:00+00:00",
        "endpoint": "chat",
        "assignment_p": 1.0,
        "requester": requester,
        "asset_name": "dev.docs.chat",
        "asset_version": 3,
        "request_json": '{"messages":[{"role":"user","content":"Why?"}]}',
        "response_json": '{"content":"Because [1].","citations":[{"number":1}]}',
        **more,
    }


def test_rows_are_found_before_and_after_they_are_drained(tmp_path: Path) -> None:
    state = StateConfig(dir=tmp_path)
    with Spool(state.spool) as spool:
        tables = SpoolTables(spool, Lake(state))
        request_id = new_id()
        assert tables.find(CONFIG.inference_log, "request_id", request_id) == []
        tables.append(CONFIG.inference_log, exchange_row(request_id))
        tables.append(CONFIG.inference_log, exchange_row(new_id()))
        before = tables.find(CONFIG.inference_log, "request_id", request_id)
        assert Drainer(state).drain_once() == 2
        after = tables.find(CONFIG.inference_log, "request_id", request_id)
    assert before == after
    assert [row["requester"] for row in after] == ["local"]


def test_a_shed_row_is_an_error(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool", SpoolConfig(backlog_bytes=0)) as spool:
        tables = SpoolTables(spool, Lake(StateConfig(dir=tmp_path)))
        with pytest.raises(UnavailableError, match="shed"):
            tables.append(CONFIG.inference_log, exchange_row(new_id()))


def test_judgements_join_the_last_word_with_what_was_asked(tmp_path: Path) -> None:
    state = StateConfig(dir=tmp_path)
    asked, other, lost = new_id(), new_id(), new_id()
    given = [
        Thumb(new_id(), asked, "up"),
        Thumb(new_id(), other, "up", comment="Fine."),
        Thumb(new_id(), asked, "down", reason="wrong", comment="No.", talk_to_a_person=True),
        Thumb(new_id(), lost, "down"),
    ]
    with Spool(state.spool) as spool:
        tables = SpoolTables(spool, Lake(state))
        for request_id in (asked, other):
            tables.append(CONFIG.inference_log, exchange_row(request_id))
        tables.append(CONFIG.inference_log, exchange_row(asked, layer="chain", endpoint="inside"))
        for thumb in given[:2]:
            for row in feedback_rows(thumb, "local"):
                asyncio.run(tables.keep(CONFIG.feedback, row))
        Drainer(state).drain_once()
        for thumb in given[2:]:
            for row in feedback_rows(thumb, "local"):
                asyncio.run(tables.keep(CONFIG.feedback, row))

        def read(**wanted: Any) -> list[Any]:
            return read_judgements(Lake(state), CONFIG.feedback, CONFIG.inference_log, Wanted(**wanted))

        newest, down, up = read()
        assert [j.request_id for j in (newest, down, up)] == [lost, asked, other]
        assert newest.question is None
        assert (down.value, down.reason, down.comment) == ("down", "wrong", "No.")
        assert (down.talk_to_a_person, down.endpoint, down.version) == (True, "chat", "3")
        assert (down.question, down.answer, down.citations) == ("Why?", "Because [1].", [{"number": 1}])
        assert down.as_json()["time"].endswith("+00:00")
        assert [j.value for j in read(every=True)] == ["down", "down", "up", "up"]
        assert [j.request_id for j in read(value="up")] == [other]
        assert [j.request_id for j in read(reason="wrong")] == [asked]
        assert [j.request_id for j in read(talk=True)] == [asked]
        assert [j.request_id for j in read(endpoint="chat")] == [asked, other]
        assert [j.request_id for j in read(limit=1)] == [lost]
        assert read(since=newest.time) == [newest]


def test_a_folder_without_feedback_gives_none(tmp_path: Path) -> None:
    lake = Lake(StateConfig(dir=tmp_path))
    assert read_judgements(lake, CONFIG.feedback, CONFIG.inference_log, Wanted()) == []


def test_the_impact_of_a_version_names_the_endpoints_that_follow_its_alias(tmp_path: Path) -> None:
    from tests.support.promotions import found
    from tests.support.registry_rows import seed

    with standard_backing(StateConfig(dir=tmp_path / "state")) as backing:
        assert backing.rooms is not None
        registry = backing.rooms.registry
        one, two = seed(registry.sql, "dev.docs.chat", 2)
        for _ in range(2):  # every start says it; it is written down once
            note_served(backing.rooms, [EndpointConfig(name="help", asset="dev.docs.chat@champion")])
        registry.point("champion", two.ref, found(two), etag=None)
        assert [item.node for item in registry.lineage(two.ref, impact=True)] == ["endpoint:help"]
        assert registry.lineage(one.ref, impact=True) == []
