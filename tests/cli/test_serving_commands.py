"""`serve`, `keys` and `feedback` as people type them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llmops.cli.main import run
from llmops.core.ids import new_id
from llmops.core.spool import Spool
from llmops.core.state import StateConfig
from llmops.serving.record import Thumb, feedback_rows

LOG, FEEDBACK = "dev.serving.inference_log", "dev.serving.feedback"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command prints as JSON; it must succeed."""
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_key_is_made_listed_and_revoked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = said(capsys, "keys", "create", "intranet", "--group", "board", "--expires", "90d")
    assert made["token"].startswith(f"lk_{made['key_id']}_")
    assert (made["scopes"], made["groups"], made["state"]) == (["serving"], ["board"], "active")
    listed = said(capsys, "keys", "list")
    assert [key["key_id"] for key in listed] == [made["key_id"]]
    assert made["token"] not in json.dumps(listed)
    assert said(capsys, "keys", "revoke", made["key_id"])["state"] == "revoked"
    assert said(capsys, "keys", "list")[0]["state"] == "revoked"


def test_a_token_alone_goes_to_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "create", "script"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("lk_")
    assert out.count("\n") == 1
    assert "cannot be shown again" in err


def test_an_account_is_made_changed_and_shut_on_record(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAS_PASSWORD", "correct horse battery")
    made = said(capsys, "accounts", "add", "ada", "--group", "board", "--password", "env:ADAS_PASSWORD")
    assert (made["name"], made["groups"], made["state"]) == ("ada", ["board"], "active")
    generated = said(capsys, "accounts", "password", "ada", "--generate")["password"]
    assert said(capsys, "accounts", "groups", "ada", "hr", "legal")["groups"] == ["hr", "legal"]
    assert said(capsys, "accounts", "sign-out", "ada")["state"] == "active"
    assert said(capsys, "accounts", "disable", made["id"])["state"] == "disabled"
    assert said(capsys, "accounts", "enable", "ADA")["state"] == "active"
    listed = said(capsys, "accounts", "list")
    assert [person["name"] for person in listed] == ["ada"]
    log = said(capsys, "audit", "list", "--about", "account:ada")
    assert {row["action_name"] for row in log} >= {"create", "tag", "grant"}
    for word in ("correct horse battery", generated):
        assert word not in json.dumps(listed) + json.dumps(log)


def test_an_account_that_cannot_be_made_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["accounts", "add", "ada"]) == 1
    assert "--generate" in capsys.readouterr().err
    assert run(["accounts", "add", "a/b", "--generate"]) == 1
    assert "is no name" in capsys.readouterr().err
    assert run(["accounts", "disable", "nobody"]) == 1
    assert "llmops accounts list" in capsys.readouterr().err


@pytest.mark.parametrize("span", ["90", "soon", "0d"])
def test_a_wrong_span_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], span: str) -> None:
    assert run(["keys", "create", "x", "--expires", span]) == 1
    assert "90d or 12h" in capsys.readouterr().err


def test_an_unknown_key_cannot_be_revoked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "revoke", "0123456789abcdef"]) == 1
    assert "no such key" in capsys.readouterr().err


@pytest.fixture
def judged(folder: Path) -> list[Thumb]:
    """Two judged requests in the spool, not drained."""
    thumbs = [
        Thumb(
            new_id(), new_id(), "down", reason="wrong_source", comment="Page 4 says otherwise.", talk_to_a_person=True
        ),
        Thumb(new_id(), new_id(), "up"),
    ]
    with Spool(StateConfig().spool) as spool:
        for thumb in thumbs:
            request = {
                "invocation_id": new_id(),
                "layer": "serving",
                "request_id": thumb.request_id,
                "request_time": "2026-11-23T21:00:00+00:00",
                "endpoint": "chat",
                "assignment_p": 1.0,
                "asset_name": "dev.docs.chat",
                "asset_version": 3,
                "request_json": json.dumps({"messages": [{"role": "user", "content": "Why?"}]}),
                "response_json": json.dumps({"content": "Because.", "citations": []}),
            }
            spool.append(LOG, request)
            for row in feedback_rows(thumb, "local"):
                asyncio.run(spool.append_durable(FEEDBACK, row))
    return thumbs


def test_feedback_shows_thumb_reason_question_and_answer(
    judged: list[Thumb], capsys: pytest.CaptureFixture[str]
) -> None:
    newest, down = said(capsys, "feedback", "list")
    assert (newest["value"], down["value"], down["reason"]) == ("up", "down", "wrong_source")
    assert (down["question"], down["answer"], down["version"]) == ("Why?", "Because.", "3")
    assert down["talk_to_a_person"] is True
    assert [row["value"] for row in said(capsys, "feedback", "list", "--value", "down")] == ["down"]
    assert said(capsys, "feedback", "list", "--since", "2999-01-01") == []
    assert len(said(capsys, "feedback", "list", "--since", "1h", "--talk")) == 1


def test_feedback_export_writes_a_line_a_judgement(
    judged: list[Thumb], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "feedback", "export", "out.jsonl") == {"path": "out.jsonl", "rows": 2}
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [line["request_id"] for line in lines] == [thumb.request_id for thumb in reversed(judged)]
    assert run(["feedback", "export", "--limit", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == "up"


def test_a_wrong_time_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["feedback", "list", "--since", "yesterday"]) == 1
    assert "7d, 12h" in capsys.readouterr().err


def test_serve_refuses_an_open_door_and_an_unknown_chain(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--host", "0.0.0.0"]) == 1
    assert "open the chat to everybody" in capsys.readouterr().err
    assert run(["serve", "--port", "0"]) == 1
    assert "dev.docs.chat" in capsys.readouterr().err
