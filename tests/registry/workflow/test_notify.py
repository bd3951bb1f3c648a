"""Messages: written with what they tell of, delivered at least once, signed, never to where they must not go."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from tests.support.receiver import certificate, mailing, receiving
from tests.support.workflows import Bench, task

from llmops.core.errors import ConfigError
from llmops.core.webhook import signature
from llmops.registry.workflow import tables
from llmops.registry.workflow.notify.courier import deliver

EVENTS = ["started", "waiting", "failed", "succeeded", "cancelled", "promoted"]


def events(bodies: list[dict[str, Any]]) -> list[str]:
    return [body["event"] for body in bodies]


def outbox(bench: Bench) -> list[Any]:
    with bench.flows.sql.read() as connection:
        return list(connection.execute(select(tables.messages).order_by(tables.messages.c.message_id)))


def due_now(bench: Bench) -> None:
    with bench.flows.sql.begin() as connection:
        connection.execute(update(tables.messages).values(due_at=datetime.now(UTC)))


def test_a_webhook_hears_of_each_event_once_and_signed(sql_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = sql_bench
    monkeypatch.setenv("HOOK", "hush")
    file = bench.folder / "there"
    with receiving() as receiver:
        entry = {"kind": "webhook", "url": receiver.url, "secret": "env:HOOK", "on": EVENTS, "allow_private": True}
        tasks = [task("a", "wait", given={"file": str(file)}), task("b", given={"promoted": True, "version": 3})]
        run, _ = bench.run(tasks, notify=[entry])
        bench.carry(run.run_id)  # asked again, still waiting: nothing new to tell
        file.touch()
        bench.carry(run.run_id)
    for headers, body in receiver.got:
        assert headers["x-llmops-signature"] == signature("hush", headers["x-llmops-timestamp"], body)
        assert abs(int(headers["x-llmops-timestamp"]) - time.time()) < 60
    bodies = [json.loads(body) for _, body in receiver.got]
    assert events(bodies) == ["started", "waiting", "promoted", "succeeded"]
    assert bodies[1]["reason"] == "a: the file is not there yet"
    assert (bodies[2]["task"], bodies[2]["values"]) == ("b", {"promoted": True, "version": 3})
    assert len({body["id"] for body in bodies}) == 4
    assert {(body["workflow"], body["run_id"], body["requested_by"]) for body in bodies} == {
        ("flow", run.run_id, "local")
    }
    assert all(row.delivered_at is not None and row.attempts == 1 for row in outbox(bench))


def test_only_what_is_asked_for_is_told(bench: Bench) -> None:
    with receiving() as receiver:
        entry = {"kind": "webhook", "url": receiver.url, "on": ["failed"], "allow_private": True}
        bench.run([task("a")], notify=[entry])
        bench.run([task("a", "refuse")], notify=[entry])
    (body,) = [json.loads(body) for _, body in receiver.got]
    assert (body["event"], body["task"], body["error"]["what"]) == ("failed", "a", "recall fell to 0.41")
    assert body["error"]["exit_code"] == 3
    assert "x-llmops-signature" not in receiver.got[0][0]


def test_slack_gets_its_format_and_its_url_stays_secret(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("SLACK", f"{receiver.url}/T00/B00/verysecret")
        entry = {"kind": "slack", "url": "env:SLACK", "on": ["failed"], "allow_private": True}
        receiver.statuses = [500]
        bench.run([task("a", "odd_text")], notify=[entry])
        (row,) = outbox(bench)
        assert row.error == "the slack notification answered 500 (http://127.0.0.1/...)"
        due_now(bench)
        assert deliver(bench.flows.sql) == 1
    text = json.loads(receiver.got[1][1])["text"]
    assert text.startswith("workflow flow failed at a (run ")
    assert "&lt;!channel&gt;" in text
    assert "verysecret" not in str(outbox(bench))


def test_a_receiver_that_is_away_gets_it_later_and_at_last_it_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        receiver.statuses = [503]
        entry = {"kind": "webhook", "url": receiver.url, "on": ["succeeded"], "allow_private": True}
        other = {"kind": "webhook", "url": receiver.url + "/other", "on": ["succeeded"], "allow_private": True}
        bench.run([task("a")], notify=[entry, other])
        first, second = outbox(bench)
        assert {first.delivered_at is None, second.delivered_at is None} == {True, False}  # one holds no other up
        assert deliver(bench.flows.sql) == 0  # not before its time
        due_now(bench)
        assert deliver(bench.flows.sql) == 1
        ids = [json.loads(body)["id"] for _, body in receiver.got]
        assert len(ids) == 3
        assert len(set(ids)) == 2
    monkeypatch.setattr("llmops.registry.workflow.notify.outbox.MOST_ATTEMPTS", 2)
    bench.run([task("a")], notify=[entry])
    due_now(bench)
    assert deliver(bench.flows.sql) == 0
    gone = outbox(bench)[-1]
    assert gone.attempts == 2
    assert gone.given_up_at is not None
    due_now(bench)
    assert deliver(bench.flows.sql) == 0
    assert outbox(bench)[-1].attempts == 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/"])
def test_private_addresses_are_refused_unless_allowed(bench: Bench, url: str) -> None:
    entry = {"kind": "webhook", "url": url, "on": ["succeeded"]}
    run, _ = bench.run([task("a")], notify=[entry])
    (row,) = outbox(bench)
    assert "which is not of the internet" in row.error
    assert row.delivered_at is None
    assert run.exit_code == 0  # a message that cannot be sent changes no run


def test_a_redirect_leads_nowhere(bench: Bench) -> None:
    with receiving() as receiver, receiving() as elsewhere:
        receiver.statuses, receiver.location = [307], elsewhere.url
        entry = {"kind": "webhook", "url": receiver.url, "on": ["succeeded"], "allow_private": True}
        bench.run([task("a")], notify=[entry])
    assert "answered 307" in outbox(bench)[0].error
    assert elsewhere.got == []


def test_mail_goes_through_tls_with_a_password(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL", "correct-horse")
    made = certificate(tmp_path)
    with mailing(made, "correct-horse") as box:
        entry = {
            "kind": "mail", "host": "localhost", "port": box.port, "ca_file": str(made), "user": "bot",
            "password": "env:MAIL", "from": "llmops@example.org", "to": ["a@example.org", "b@example.org"],
            "on": ["failed"], "allow_private": True,
        }  # fmt: skip
        bench.run([task("a", "refuse")], notify=[entry])
    ((recipients, message),) = box.got
    assert recipients == ["a@example.org", "b@example.org"]
    assert message["subject"] == "[llmops] workflow flow failed at a"
    assert "recall fell to 0.41" in str(message.get_payload())
    assert message["message-id"] == f"<{outbox(bench)[0].message_id}@llmops>"
    assert box.logins == [("bot", "correct-horse")]


def test_mail_to_a_server_that_cannot_prove_its_name_is_not_sent(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL", "correct-horse")
    with mailing(certificate(tmp_path), "correct-horse") as box:
        entry = {
            "kind": "mail", "host": "localhost", "port": box.port, "user": "bot", "password": "env:MAIL",
            "from": "llmops@example.org", "to": ["a@example.org"], "on": ["succeeded"], "allow_private": True,
        }  # fmt: skip
        bench.run([task("a")], notify=[entry])
    assert box.got == []
    assert box.logins == []
    assert "CERTIFICATE_VERIFY_FAILED" in outbox(bench)[0].error


def test_plain_mail_where_that_is_said(bench: Bench) -> None:
    with mailing() as box:
        entry = {
            "kind": "mail", "host": "127.0.0.1", "port": box.port, "tls": "none",
            "from": "llmops@example.org", "to": ["a@example.org"], "on": ["succeeded"], "allow_private": True,
        }  # fmt: skip
        bench.run([task("a")], notify=[entry])
    assert len(box.got) == 1
    with pytest.raises(ConfigError, match="a password needs"):
        bench.job([task("a")], notify=[{**entry, "password": "env:MAIL"}])
    with pytest.raises(ConfigError):
        bench.job([task("a")], notify=[{**entry, "to": ["a@example.org\r\nBcc: x@example.org"]}])
