"""Every configuration that a gateway takes up or refuses is on record once, though no database is asked on the way."""

from __future__ import annotations

import logging
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.support.control import config_of
from tests.support.gateway import Gateway, eventually, route, running, write_config

from llmops.core import sql as core_sql
from llmops.core.errors import ConfigError, IntegrityError, StorageError, UnavailableError
from llmops.core.identity import LOCAL
from llmops.core.ids import digest
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.gateway.changes import CHANGES, Changes, Step, parts_changed, read_change, written
from llmops.gateway.config import GatewayConfig, as_published
from llmops.gateway.control.record import Recorder
from llmops.gateway.published import publish, published_before
from llmops.registry.audit import Entry, verify
from llmops.registry.audit.tables import log
from llmops.registry.authority import Authority

ROOT = Path(__file__).parents[2]
SECRET = "sk-proj-0123456789abcdefghij"


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    return config_of(tmp_path)


def on_record(state: StateConfig) -> list[Entry]:
    with open_sql(state) as sql, sql.read() as connection:
        found = connection.execute(select(log).where(log.c.action_name == "configure").order_by(log.c.seq)).all()
    return [Entry(*row) for row in found]


def told(intent: Entry) -> dict[str, Any]:
    return dict(intent.as_json()["request_params"])


def verified(state: StateConfig) -> None:
    with open_sql(state) as sql:
        report = verify(sql, state)
    assert (report.problems, report.warnings) == ([], [])


def recorded(config: GatewayConfig) -> None:
    with recorder(config) as record:
        record()


@contextmanager
def recorder(config: GatewayConfig) -> Iterator[Recorder]:
    with open_sql(config.state) as sql, Authority.over(sql, config.state, LOCAL, "gateway") as authority:
        yield Recorder(config.folder, authority)


def taken_up(config: GatewayConfig, cause: Any = "file") -> None:
    with Changes(config.folder).taking_up(Step(cause, None, published_before(config.folder), as_published(config))):
        publish(config)


# --- by a whole gateway ---------------------------------------------------------------------------------------------


def test_what_was_taken_up_and_what_was_refused(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    write_config(file)
    with running(file) as gateway:
        first = gateway.status().config_hash
        write_config(file, routes=[route("second")])
        eventually(lambda: gateway.status().reloads == 1)
        second = gateway.status().config_hash
        write_config(file, routes=[route("impossible")])
        refused(gateway, "no worker could run with this")
        for _ in range(2):  # the same mistake again is the same refusal
            before = gateway.status().reload.at
            gateway.process.send_signal(signal.SIGHUP)
            eventually(lambda before=before: gateway.status().reload.at > before)  # type: ignore[misc]
        replaced(file, f"routes: [ # {SECRET}")
        refused(gateway, "gateway.yaml")
        write_config(file, routes=[route("second")], shutdown_s=6)
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda: gateway.status().reloads == 2)
        third = gateway.status().config_hash
        gateway.controlled()
        assert gateway.stop() == 0
        state = gateway.state
    intents, outcomes = on_record(state)[::2], on_record(state)[1::2]
    assert [one.action_id for one in intents] == [one.action_id for one in outcomes]
    assert {one.phase for one in intents} == {"intent"}
    assert [one.phase for one in outcomes] == ["done", "done", "failed", "failed", "done"]
    assert [one.status_code for one in outcomes] == [200, 200, ConfigError.http_status, ConfigError.http_status, 200]
    steps = [(told(one)["before"], told(one)["after"]) for one in intents]
    impossible = steps[2][1]
    assert steps == [(None, first), (first, second), (second, impossible), (second, None), (second, third)]
    assert impossible not in (first, second, third, None)
    assert [told(one)["changed"] for one in (intents[1], intents[4])] == [
        ["routes.first", "routes.second"],
        ["shutdown_s"],
    ]
    assert [told(one)["cause"] for one in intents[:3]] == ["start", "file", "file"]
    assert "no worker could run with this" in (outcomes[2].error_message or "")
    assert {(one.actor, one.service_name, told(one)["file"]) for one in intents} == {("local", "gateway", str(file))}
    assert all(one.user_agent for one in intents)
    assert SECRET not in repr([*intents, *outcomes])
    assert written(state.root / "gateway") == []
    verified(state)


def replaced(file: Path, text: str) -> None:
    """Whole: a file that is seen empty on the way would be one more refusal."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(file)


def refused(gateway: Gateway, said: str) -> None:
    eventually(lambda: not gateway.status().reload.ok and said in gateway.status().reload.error)


def test_a_full_disk_leaves_the_old_configuration_and_the_gateway_running(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    write_config(file)
    with running(file) as gateway:
        gateway.controlled()
        pid, (_, most) = gateway.process.pid, resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))  # no file takes another byte
        write_config(file, routes=[route("second")])
        eventually(lambda: "the configuration cannot be written" in "".join(gateway.said))
        with gateway.client() as client:
            assert client.get("/").json()["routes"] == ["first"]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda: gateway.status().reloads == 1)
        assert gateway.stop() == 0
        state = gateway.state
    assert [one.phase for one in on_record(state)] == ["intent", "done"] * 2
    verified(state)


# --- where somebody dies --------------------------------------------------------------------------------------------


def killed(program: str, folder: Path) -> None:
    """Run a program that kills itself, over the configuration of a folder."""
    head = f"""
import os, signal
from pathlib import Path
from tests.gateway import test_changes_on_record as t
config = t.config_of(Path({str(folder)!r}), shutdown_s=7)
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", head + program], check=False, cwd=ROOT, timeout=120)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.kill
@pytest.mark.parametrize(
    ("moment", "outcome"), [("t.publish = die", "abandoned"), ("t.Changes._conclude = die", "done")]
)
def test_a_supervisor_killed_half_way_is_told_of_by_the_next(
    config: GatewayConfig, tmp_path: Path, moment: str, outcome: str
) -> None:
    taken_up(config)
    killed(f"{moment}\nt.taken_up(config)", tmp_path)
    recorded(config)
    assert [one.phase for one in on_record(config.state)] == ["intent", "done"]  # the other's end is not known yet
    Changes(config.folder).settle(digest(published_before(config.folder)))
    recorded(config)
    intent, end = on_record(config.state)[2:]
    assert (end.phase, end.as_json()["response"]["result"]) == (outcome, {"recovered": True})
    assert told(intent)["changed"] == ["shutdown_s"]
    verified(config.state)


@pytest.mark.kill
@pytest.mark.parametrize(
    "moment",
    [
        "import llmops.gateway.control.record as r\nr.forget = die",  # on record, and not forgotten yet
        "from llmops.registry.audit import Audit\nAudit._anchored_later = die",
        "import llmops.registry.audit.log as l\nl._told = die",  # between the two rows
    ],
)
def test_a_control_process_killed_at_any_moment_tells_each_change_once(
    config: GatewayConfig, tmp_path: Path, moment: str
) -> None:
    taken_up(config)
    taken_up(config_of(tmp_path, shutdown_s=9))
    killed(f"{moment}\nt.recorded(config)", tmp_path)
    for _ in range(2):
        recorded(config)
        assert [one.phase for one in on_record(config.state)] == ["intent", "done"] * 2
    assert len({one.request_id for one in on_record(config.state)}) == 2
    assert written(config.folder) == []
    verified(config.state)


def test_a_locked_log_keeps_nobody_from_changing_the_gateway(
    config: GatewayConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_sql, "BUSY_TIMEOUT_S", 0.05)
    with recorder(config) as record:
        other = sqlite3.connect(config.state.dir / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            taken_up(config)
            with pytest.raises(UnavailableError, match="locked"):
                record()
        finally:
            other.close()
        assert len(written(config.folder)) == 1
        record()
    assert [one.phase for one in on_record(config.state)] == ["intent", "done"]


# --- what is written down -------------------------------------------------------------------------------------------


def test_a_damaged_file_is_told_and_keeps_no_other_from_the_record(
    config: GatewayConfig, caplog: pytest.LogCaptureFixture
) -> None:
    taken_up(config)
    damaged = config.folder / CHANGES / "0.json"
    damaged.write_bytes(b'{"change_id": 7}')
    with recorder(config) as record, pytest.raises(IntegrityError, match="cannot be read"):
        record()
    assert len(on_record(config.state)) == 2
    assert written(config.folder) == [damaged]
    with caplog.at_level(logging.ERROR):
        Changes(config.folder).settle(None)
    assert str(damaged) in caplog.text


def test_what_cannot_be_written_down_does_not_happen(config: GatewayConfig) -> None:
    config.folder.mkdir(parents=True)
    (config.folder / CHANGES).write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot be written"):
        taken_up(config)
    assert published_before(config.folder) == {}


def test_only_their_owner_reads_them(config: GatewayConfig) -> None:
    taken_up(config)
    (path,) = written(config.folder)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    change = read_change(path)
    assert change is not None
    assert (change.outcome, change.before, change.after) == ("done", None, digest(as_published(config)))
    path.unlink()
    assert read_change(path) is None


def test_the_parts_that_differ_are_named(tmp_path: Path) -> None:
    old = as_published(config_of(tmp_path))
    new = as_published(config_of(tmp_path, teams={"search": {}}, workers=2, providers=config_of(tmp_path).providers))
    assert parts_changed(old, new) == ("teams.search", "teams.support", "workers")
    assert parts_changed(old, old) == ()
    assert parts_changed({}, new) == ()
