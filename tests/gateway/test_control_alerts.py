"""Alerts: what opens and ends them, and how they are posted."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.control import Control, config_of, dump, fill, receiving, row, running_control, write_metrics

from llmops.core.addresses import checked_address
from llmops.core.errors import ConfigError, DeniedError, UpstreamError
from llmops.core.lake import Lake
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig
from llmops.core.webhook import SIGNATURE, TIMESTAMP, Webhook
from llmops.gateway.control.alerts import Alerts, Condition
from llmops.gateway.control.budgets import Standing, conditions
from llmops.gateway.control.meters import Meters
from llmops.gateway.control.models import ReportedModels
from llmops.gateway.control.watch import Duties, Watch

SPENT = Condition("budget_80", "key:one/month", "nearly spent")


@pytest.fixture
def alerts(tmp_path: Path) -> Iterator[Alerts]:
    sql: Sql
    with open_sql(StateConfig(dir=tmp_path)) as sql:
        yield Alerts(sql)


def test_a_condition_is_one_alert_while_it_lasts(alerts: Alerts) -> None:
    assert [one.subject for one in alerts.observe([SPENT])] == ["key:one/month"]
    assert alerts.observe([SPENT]) == []
    assert alerts.observe([]) == []
    first = alerts.list()[0]
    assert first.ended_at is not None
    assert len(alerts.observe([SPENT])) == 1
    assert [one.ended_at is None for one in alerts.list()] == [True, False]


def test_budgets_alert_at_eighty_and_at_a_hundred_percent() -> None:
    def kinds(spent: int) -> list[str]:
        return [one.kind for one in conditions([Standing("team:a", "month", 1_000_000_000, spent, 0)])]

    assert kinds(799_999_999) == []
    assert kinds(800_000_000) == ["budget_80"]
    assert kinds(999_999_999) == ["budget_80"]
    assert kinds(1_000_000_000) == ["budget_100"]


def test_an_alert_is_posted_once_and_signed(alerts: Alerts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_KEY", "hush")
    alerts.observe([SPENT])
    with receiving() as receiver:
        webhook = Webhook(f"{receiver.url}/in?a=b", "env:ALERT_KEY", private=True)
        assert alerts.deliver(webhook) == 1
        assert alerts.deliver(webhook) == 0
    path, headers, body = receiver.got[0]
    assert path == "/in?a=b"
    signed = hmac.new(b"hush", f"{headers[TIMESTAMP]}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers[SIGNATURE] == f"sha256={signed}"
    told = json.loads(body)["alert"]
    assert (told["kind"], told["subject"], told["message"]) == ("budget_80", "key:one/month", "nearly spent")
    assert len(receiver.got) == 1


def test_a_failed_post_is_tried_again_later(alerts: Alerts, monkeypatch: pytest.MonkeyPatch) -> None:
    alerts.observe([SPENT])
    with receiving() as receiver:
        receiver.status = 500
        webhook = Webhook(receiver.url, private=True)
        assert alerts.deliver(webhook) == 0
        assert "answered 500" in alerts.list()[0].delivery_error
        receiver.status = 204
        assert alerts.deliver(webhook) == 0  # not at once

        class Later(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) + timedelta(seconds=30)

        monkeypatch.setattr("llmops.gateway.control.alerts.datetime", Later)
        assert alerts.deliver(webhook) == 1
    assert len(receiver.got) == 2
    assert alerts.list()[0].attempts == 2


def test_no_private_address_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in (
        "127.0.0.1",
        "localhost",
        "169.254.169.254",
        "10.0.0.1",
        "[::1]",
        "[fd00::1]",
        "[::ffff:10.0.0.1]",
        "[::10.0.0.1]",
        "[64:ff9b::10.0.0.1]",
        "[64:ff9b:1::10.0.0.1]",
        "[2002:a00:1::]",
        "[2001:0:a00:1::1]",
        "192.88.99.1",
        "0.0.0.0",
    ):
        with pytest.raises(DeniedError, match="not of the internet"):
            Webhook(f"http://{host}:1/").post({})
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: answers)
    with pytest.raises(DeniedError):  # one of a name's addresses is enough
        checked_address("mixed.example", 80, private=False, hint="")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: answers[:1])
    assert checked_address("good.example", 80, private=False, hint="") == "93.184.216.34"


def test_a_webhook_that_is_gone_or_wrong_is_said() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(UpstreamError, match="failed"):
            Webhook(f"http://127.0.0.1:{closed.getsockname()[1]}/", private=True).post({})
    with pytest.raises(ConfigError):
        Webhook("ftp://example.org/")
    assert Webhook("https://user:hush@example.org/in?token=hush").shown == "https://example.org/in"


def test_a_redirect_is_not_followed() -> None:
    with receiving() as receiver:
        receiver.status = 302
        with pytest.raises(UpstreamError, match="answered 302"):
            Webhook(receiver.url, private=True).post({})
    assert len(receiver.got) == 1


def test_what_is_wrong_at_the_gateway_becomes_alerts_and_is_posted(tmp_path: Path) -> None:
    with receiving() as receiver:
        hook = {"port": 0, "alert_webhook": receiver.url, "alert_private": True}
        routes = [{"name": "fast", "targets": [{"provider": "near", "model": "small", "expect_model": "^small"}]}]
        with running_control(tmp_path, control=hook, routes=routes) as control:
            fill(control.config, [row(model_version="small-2026"), row(model_version="large-2027")])
            metrics = write_metrics(control.office.folder, 0)
            gauge = ("llmops_gateway_breaker_open", {"route": "fast", "target": "near/small"}, 1)
            dump(metrics, control.office.folder, os.getpid(), [gauge], fresh_s=3600)
            control.look()
            assert kinds(control) == {"breaker_open"} or kinds(control) == {"breaker_open", "model_changed"}
            with control.client() as client:
                assert "near/small keeps failing" in client.get("/").text
            dump(metrics, control.office.folder, os.getpid())
            control.look()
            assert "breaker_open" not in kinds(control)
            assert control.office.watch.duties.problems == {}
    assert "breaker_open" in {json.loads(body)["alert"]["kind"] for _, _, body in receiver.got}


def test_an_older_look_ends_no_alert_that_a_newer_one_opened(alerts: Alerts, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wrong(_: object) -> list[Condition]:
        if begun.is_set():
            return [SPENT]
        begun.set()
        go_on.wait(60)
        return []

    watch = Watch(Meters(tmp_path), Duties(alerts, wrong, lambda: config_of(tmp_path)))
    older, newer = (threading.Thread(target=watch.look) for _ in range(2))
    older.start()
    begun.wait(60)
    newer.start()
    newer.join(0.3)  # it would be done by now, if it did not wait
    go_on.set()
    for thread in (older, newer):
        thread.join(60)
    assert [one.ended_at for one in alerts.list()] == [None]


def kinds(control: Control) -> set[str]:
    return {alert.kind for alert in control.office.alerts.list() if alert.ended_at is None}


def test_a_model_that_changes_is_seen(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    models = ReportedModels(Lake(config.state), config.inference_log)
    models.look()
    assert models.conditions(config) == []
    now = datetime.now(UTC)
    fill(config, [row(at=now - timedelta(hours=2), model_version="small-1")])
    models.look()
    models = ReportedModels(Lake(config.state), config.inference_log)
    models.look()
    assert models.conditions(config) == []
    fill(config, [row(at=now, model_version="small-2"), row(at=now, model_version="x", tags={"target": "un/known"})])
    models.look()
    (found,) = models.conditions(config)
    assert (found.kind, found.subject) == ("model_changed", "near/small")
    assert "`small-2`; before it was `small-1`" in found.message


def test_an_unexpected_model_alerts_until_it_is_gone(tmp_path: Path) -> None:
    target = {"provider": "near", "model": "small", "expect_model": r"^small-\d+$"}
    config = config_of(tmp_path, routes=[{"name": "fast", "targets": [target]}])
    models = ReportedModels(Lake(config.state), config.inference_log)
    now = datetime.now(UTC)
    fill(config, [row(at=now - timedelta(minutes=1), model_version="tiny")])
    models.look()
    assert [one.kind for one in models.conditions(config)] == ["model_changed"]
    fill(config, [row(at=now, model_version="small-3")])
    models.look()
    assert models.conditions(config) == []
