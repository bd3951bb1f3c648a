"""Triggers: only signed, only once, not too often, over HTTP and over processes; and the scheduler's own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from starlette.testclient import TestClient
from tests.support.waiting import eventually
from tests.support.workflows import Bench, task, write

from llmops.core.errors import ConfigError, RateLimitedError, UnauthenticatedError
from llmops.core.ids import new_id
from llmops.core.webhook import Webhook, signature
from llmops.registry import Registry
from llmops.registry.audit import Wanted
from llmops.registry.workflow import Job, RunStatus, TaskStatus, Workflows, tables
from llmops.registry.workflow import trigger_app as trigger_app_module
from llmops.registry.workflow.trigger import Admitted, Sender, TriggerRequest, admit, received, verify
from llmops.registry.workflow.trigger_app import BODY_BYTES, REQUESTS_A_MINUTE, parse_address, trigger_app

SENDER = Sender.by_key("alerts", "127.0.0.1")
KEY = "alert-key-of-the-tests"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_KEY", KEY)


def triggered(bench: Bench, **more: Any) -> Job:
    rules = {"keys": {"alerts": "env:ALERT_KEY"}, "cool_down_s": 0, **more.pop("rules", {})}
    return bench.job([task("a", given={"seed": "${params.seed}"})], params={"seed": 7}, trigger=rules, **more)


def headers(body: bytes, *, key: str = KEY, stamp: int | None = None) -> dict[str, str]:
    when = str(stamp if stamp is not None else int(time.time()))
    return {"x-llmops-timestamp": when, "x-llmops-signature": signature(key, when, body)}


def request(**values: Any) -> TriggerRequest:
    return TriggerRequest(**{"id": new_id(), **values})


def test_a_signature_is_right_fresh_and_of_a_known_key(bench: Bench) -> None:
    trigger = triggered(bench).config.trigger
    body = b'{"id": "1"}'
    good = headers(body, stamp=1_000_000)
    assert verify(trigger, good, body, now=1_000_299) == "alerts"
    assert verify(trigger, good | {"x-llmops-key": "alerts"}, body, now=999_701) == "alerts"
    wrong: list[tuple[dict[str, str], bytes, float]] = [
        (good, body, 1_000_301),
        (good, body, 999_699),
        (good, body + b" ", 1_000_000),
        (good | {"x-llmops-timestamp": "1000001"}, body, 1_000_000),
        (good | {"x-llmops-timestamp": "x"}, body, 1_000_000),
        (good | {"x-llmops-signature": "sha256=ü"}, body, 1_000_000),
        (good | {"x-llmops-key": "other"}, body, 1_000_000),
        (headers(body, key="another", stamp=1_000_000), body, 1_000_000),
        ({}, body, 1_000_000),
    ]
    for sent, content, now in wrong:
        with pytest.raises(UnauthenticatedError):
            verify(trigger, sent, content, now=now)
    with pytest.raises(UnauthenticatedError):
        verify(None, good, body, now=1_000_000)


def test_a_request_starts_one_run_however_often_it_comes(sql_bench: Bench) -> None:
    bench, job = sql_bench, triggered(sql_bench)
    asked = request(note="drift in amount", params={"seed": 9})
    first = admit(bench.flows, job, asked, SENDER)
    assert first.outcome == "accepted"
    assert first.run_id is not None
    assert admit(bench.flows, job, asked, SENDER) == Admitted("duplicate", first.run_id)
    run, tasks = bench.carry(first.run_id)
    assert (run.cause.means, run.cause.note, run.requested_by.id) == ("trigger", "drift in amount", "trigger:alerts")
    assert tasks["a"].values == {"seed": 9}
    (kept,) = received(bench.flows.sql, "flow")
    assert (kept.key_id, kept.address, kept.outcome, kept.run_id) == ("alerts", "127.0.0.1", "accepted", first.run_id)
    with Registry(bench.state) as registry:
        logged = [(one.action_name, one.phase, one.actor) for one in registry.audit.read(Wanted(action="retrain"))]
    assert ("retrain", "done", "trigger:alerts") in logged
    with pytest.raises(ConfigError, match="of type string, not integer"):
        admit(bench.flows, job, request(params={"seed": "x"}), SENDER)


def test_one_reason_has_one_unfinished_run(sql_bench: Bench) -> None:
    bench, job = sql_bench, triggered(sql_bench)
    first = admit(bench.flows, job, request(key="drift"), SENDER)
    assert admit(bench.flows, job, request(key="drift"), SENDER) == Admitted("duplicate", first.run_id)
    assert admit(bench.flows, job, request(key="other"), SENDER).outcome == "accepted"
    assert first.run_id is not None
    bench.carry(first.run_id)
    again = admit(bench.flows, job, request(key="drift"), SENDER)
    assert again.outcome == "accepted"
    assert again.run_id != first.run_id


def test_a_cool_down_holds_and_passes(sql_bench: Bench) -> None:
    bench, job = sql_bench, triggered(sql_bench, rules={"cool_down_s": 600})
    assert admit(bench.flows, job, request(), SENDER).outcome == "accepted"
    cooling = admit(bench.flows, job, request(), SENDER)
    assert cooling.outcome == "cooling"
    assert 300 < cooling.retry_after_s <= 600

    def shift(seconds: float) -> None:
        column = tables.workflows.c.triggered_at
        with bench.flows.sql.begin() as connection:
            now = connection.execute(tables.workflows.select()).one().triggered_at
            connection.execute(update(tables.workflows).values({column: now + timedelta(seconds=seconds)}))

    shift(3600)  # as if the clock had gone back an hour
    assert admit(bench.flows, job, request(), SENDER).retry_after_s == 600
    shift(-3600 - 601)
    assert admit(bench.flows, job, request(), SENDER).outcome == "accepted"
    assert [one.outcome for one in received(bench.flows.sql)] == ["accepted", "cooling", "cooling", "accepted"]


def test_the_rate_is_limited(bench: Bench) -> None:
    job = triggered(bench, rules={"requests_per_minute": 2})
    for _ in range(2):
        admit(bench.flows, job, request(key="same"), SENDER)
    with pytest.raises(RateLimitedError):
        admit(bench.flows, job, request(key="same"), SENDER)
    assert len(received(bench.flows.sql)) == 2


def test_many_doors_start_one_run(sql_bench: Bench) -> None:
    """Cool-down, id and reason, each alone, when all ask at the same moment."""
    bench = sql_bench
    same = request()
    for rules, asked in (
        ({"cool_down_s": 600}, [request() for _ in range(4)]),
        ({}, [same] * 4),
        ({}, [request(key="drift") for _ in range(4)]),
    ):
        job = triggered(bench, rules=rules, name=f"flow{len(bench.flows.list())}")
        gate, outcomes = threading.Barrier(4), []

        def ask(
            one: TriggerRequest, job: Job = job, gate: threading.Barrier = gate, told: list[str] = outcomes
        ) -> None:
            with Workflows(bench.state) as flows:
                gate.wait()
                told.append(admit(flows, job, one, SENDER).outcome)

        threads = [threading.Thread(target=ask, args=(one,)) for one in asked]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes).count("accepted") == 1, outcomes
        assert len(bench.flows.list(job.config.name)) == 1


@contextmanager
def client(bench: Bench, job: Job, host: str = "127.0.0.1") -> Iterator[TestClient]:
    app = trigger_app([job], bench.flows, host=host)
    with TestClient(app, base_url=f"http://{host}:8100") as made:
        yield made


def test_the_door_over_http(bench: Bench) -> None:
    job = triggered(bench, rules={"cool_down_s": 600})
    with client(bench, job) as door:

        def post(body: bytes, name: str = "flow", **more: Any) -> httpx.Response:
            return door.post(f"/v1/workflows/{name}/trigger", content=body, headers=headers(body) | more)

        body = json.dumps({"id": "one", "note": "drift"}).encode()
        first = post(body)
        assert (first.status_code, first.json()["status"]) == (202, "accepted")
        again = post(body)
        assert (again.status_code, again.json()) == (200, {"status": "duplicate", "run_id": first.json()["run_id"]})
        cooling = post(b'{"id": "two"}')
        assert cooling.status_code == 429
        assert 300 < int(cooling.headers["retry-after"]) <= 600
        assert cooling.json()["error"]["code"] == "cooling"
        assert door.post("/v1/workflows/flow/trigger", content=body).status_code == 401
        assert post(body, "nope").status_code == 401  # who has no key learns no names
        for odd in (
            b"{}",
            b"[]",
            b"x",
            b'{"id": ""}',
            b'{"id": "1", "more": 2}',
            b'{"id": "3", "note": "sk-abcdefghij0123456789abcd"}',
        ):
            refused = post(odd)
            assert refused.status_code == 400, odd
            assert "sk-abc" not in refused.text
        assert (
            post(b'{"id": "4", "params": {"sed": 1}}').json()["error"]["message"].startswith("unknown parameter `sed`")
        )
        assert post(b" " * (BODY_BYTES + 1)).status_code == 413
        assert door.get("/healthz").json() == {"status": "ok"}
        for foreign in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
            assert post(body, **foreign).status_code == 403, foreign
    assert [one.outcome for one in received(bench.flows.sql)] == ["cooling", "accepted"]


def test_an_unreadable_key_tells_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = triggered(bench)
    monkeypatch.delenv("ALERT_KEY")
    with client(bench, job) as door:
        answer = door.post("/v1/workflows/flow/trigger", content=b"{}", headers=headers(b"{}"))
    assert answer.status_code == 503
    assert "ALERT_KEY" not in answer.text


def test_guessing_is_limited(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trigger_app_module, "time", SimpleNamespace(monotonic=lambda: 0.0))  # one minute, however long
    with client(bench, triggered(bench)) as door:
        codes = [
            door.post("/v1/workflows/flow/trigger", content=b"{}").status_code for _ in range(REQUESTS_A_MINUTE + 5)
        ]
    assert codes[0] == 401
    assert codes[-1] == 429


def test_addresses_are_read() -> None:
    assert parse_address("127.0.0.1:8100") == ("127.0.0.1", 8100)
    assert parse_address("[::1]:8100") == ("::1", 8100)
    assert parse_address(":0") == ("127.0.0.1", 0)
    with pytest.raises(ConfigError):
        parse_address("localhost")


class Process:
    """`llmops workflow schedule` as people start it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "llmops.cli.main", "workflow", "schedule", *arguments]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()

    def end(self, number: signal.Signals | None = None) -> int:
        """Wait for its end, asking for it by a signal where one is given."""
        if number is not None:
            self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=120)
        self.said += rest
        return self.process.returncode


def until(bench: Bench, run_id: str, *wanted: RunStatus) -> None:
    eventually(lambda: bench.shown(run_id)[0].status in wanted, 120)


@pytest.mark.kill
def test_a_scheduler_is_triggered_killed_and_goes_on(bench: Bench) -> None:
    file, end = bench.folder / "there", bench.folder / "end"
    tasks = [
        task("a", given=bench.given()),
        task("b", "wait", given=bench.given(file=str(file))),
        task("c", "hold", given=bench.given(file=str(end))),
    ]
    rules = {"keys": {"alerts": "env:ALERT_KEY"}, "cool_down_s": 0}
    place = write(bench.folder, tasks, state=bench.state, trigger=rules, schedule={"cron": "0 0 1 1 *"})
    scheduler = Process(bench.folder, str(place), "--listen", "127.0.0.1:0")
    try:
        assert "triggers at http://localhost:" in scheduler.said, scheduler.said
        url = (
            scheduler.said.split("triggers at ")[1]
            .split(" ")[0]
            .replace("NAME", "flow")
            .replace("localhost", "127.0.0.1")
        )
        Webhook(url, "env:ALERT_KEY", private=True).post({"id": "one", "key": "drift"})
        (run,) = bench.flows.list("flow")
        until(bench, run.run_id, RunStatus.WAITING)
        file.touch()
        bench.flows.wake("file")
        eventually(lambda: "c 1" in bench.began())
        scheduler.process.kill()
        scheduler.process.communicate()
        end.touch()
        until_lease_is_over(bench)
        scheduler = Process(bench.folder, str(place))
        until(bench, run.run_id, RunStatus.SUCCEEDED)
    finally:
        code = scheduler.end(signal.SIGTERM)
    assert code == 0, scheduler.said
    assert bench.began() == ["a 1", "b 1", "b 2", "c 1", "c 2"]


def until_lease_is_over(bench: Bench) -> None:
    """As if the lease of the killed engine had run out."""
    with bench.flows.sql.begin() as connection:
        connection.execute(update(tables.runs).values(lease=None))


def test_a_scheduler_ends_at_ctrl_c_and_leaves_its_run_to_be_resumed(bench: Bench) -> None:
    place = write(bench.folder, [task("a", "slow", given=bench.given())], state=bench.state)
    run = bench.flows.start(bench.job([task("a", "slow", given=bench.given())]))
    scheduler = Process(bench.folder, str(place))
    until(bench, run.run_id, RunStatus.RUNNING)
    eventually(bench.began)
    assert scheduler.end(signal.SIGINT) == 130
    run, tasks = bench.shown(run.run_id)
    assert (run.shown, tasks["a"].status) == ("interrupted", TaskStatus.PENDING)


def test_an_open_door_is_refused(bench: Bench) -> None:
    rules = {"keys": {"alerts": "env:ALERT_KEY"}}
    place = write(bench.folder, [task("a")], state=bench.state, trigger=rules)
    scheduler = Process(bench.folder, str(place), "--listen", "0.0.0.0:0")
    code = scheduler.end()
    assert code == 1, scheduler.said
    assert "needs the names by which clients call this server" in scheduler.said
