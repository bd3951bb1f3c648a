"""Thumbs: kept before they are acknowledged, once an id, by whoever asked and nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.serving import Running, ask, running

from llmops.core.convert import to_arrow
from llmops.core.errors import StorageError
from llmops.core.ids import new_id
from llmops.core.tables import spec_of

MINE = {"authorization": "Bearer lk_one"}


def thumb(request_id: str, **more: Any) -> dict[str, Any]:
    return {"feedback_id": new_id(), "request_id": request_id, "value": "down", **more}


def give(client: httpx.Client, body: dict[str, Any], **headers: str) -> httpx.Response:
    return client.post("/v1/feedback", json=body, headers=headers)


def asked(client: httpx.Client) -> str:
    return str(ask(client)["llmops"]["request_id"])


def test_a_thumb_with_reason_comment_and_wish_is_kept(server: Running) -> None:
    with server.client() as client:
        request_id = asked(client)
        body = thumb(request_id, reason="wrong_source", comment="Page 4 says otherwise.", talk_to_a_person=True)
        response = give(client, body)
    assert response.json() == {"feedback_id": body["feedback_id"], "request_id": request_id, "repeated": False}
    rows = [row for row in server.feedback() if row["request_id"] == request_id]
    assert to_arrow(spec_of(server.config.feedback), rows)[1] == []
    given, wish = rows
    assert (given["name"], given["value_num"], given["value_str"]) == ("thumb", 0.0, "wrong_source")
    assert (given["rationale"], given["source"], given["source_id"]) == ("Page 4 says otherwise.", "human", "local")
    assert (wish["name"], wish["value_num"]) == ("talk_to_a_person", 1.0)
    assert given["feedback_id"] == body["feedback_id"] != wish["feedback_id"]


def test_a_repeat_changes_nothing_and_another_with_its_id_is_refused(server: Running) -> None:
    with server.client() as client:
        request_id = asked(client)
        body = thumb(request_id)
        first, again = give(client, body), give(client, body)
        other = give(client, {**body, "value": "up"})
        elsewhere = give(client, {**body, "request_id": asked(client)})
    assert (first.json()["repeated"], again.json()["repeated"]) == (False, True)
    assert other.status_code == elsewhere.status_code == 409
    assert len([row for row in server.feedback() if row["request_id"] == request_id]) == 1


def test_a_later_one_is_kept_beside_the_earlier(server: Running) -> None:
    with server.client() as client:
        request_id = asked(client)
        give(client, thumb(request_id, value="down"))
        give(client, thumb(request_id, value="up"))
    values = [row["value_num"] for row in server.feedback() if row["request_id"] == request_id]
    assert values == [0.0, 1.0]


def test_only_whoever_asked_may_judge(server: Running) -> None:
    with server.client() as client:
        request_id = asked(client)
        stranger = give(client, thumb(request_id), **MINE)
        unknown = give(client, thumb(new_id()))
    assert (stranger.status_code, stranger.json()["error"]["code"]) == (403, "not_your_request")
    assert unknown.status_code == 404
    assert not [row for row in server.feedback() if row["request_id"] == request_id]


def test_two_browsers_are_two_people(server: Running) -> None:
    with server.client() as one, server.client() as two:
        for browser in (one, two):
            browser.post("/v1/session", json={})
        request_id = asked(one)
        assert give(two, thumb(request_id)).status_code == 403
        assert give(one, thumb(request_id)).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": "meh"},
        {"feedback_id": "1"},
        {"reason": "Not a code"},
        {"stars": 5},
        {"talk_to_a_person": "maybe"},
    ],
)
def test_a_malformed_thumb_is_refused(server: Running, wrong: dict[str, Any]) -> None:
    with server.client() as client:
        response = give(client, {**thumb(new_id()), **wrong})
    assert response.status_code == 400


def test_a_comment_has_a_limit(server: Running) -> None:
    with server.client() as client:
        response = give(client, thumb(asked(client), comment="x" * 4001))
    assert response.status_code == 413


def test_a_thumb_that_the_disk_does_not_take_is_refused_and_may_be_given_again(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any) -> None:
        raise StorageError("the disk is full", hint="free some space")

    with server.client() as client:
        request_id = asked(client)
        body = thumb(request_id, reason="incomplete")
        with monkeypatch.context() as patch:
            patch.setattr(server.tables, "keep", full)
            refused = give(client, body)
        assert (refused.status_code, refused.json()["error"]["message"]) == (507, "the disk is full (free some space)")
        assert not [row for row in server.feedback() if row["request_id"] == request_id]
        assert give(client, body).json()["repeated"] is False
    (kept,) = [row for row in server.feedback() if row["request_id"] == request_id]
    assert kept["value_str"] == "incomplete"


def test_after_a_restart_the_log_tells_whose_request_it_was(state: Path) -> None:
    with running(state) as before, before.client() as client:
        request_id = asked(client)
        early = thumb(request_id)
        give(client, early)
    with running(state) as after, after.client() as client:
        assert give(client, early).json()["repeated"] is True
        assert give(client, thumb(request_id)).json()["repeated"] is False
        assert give(client, thumb(request_id), **MINE).status_code == 403
        assert len(after.feedback()) == 2
