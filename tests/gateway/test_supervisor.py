"""The supervisor over real processes: what dies comes back, and a new configuration drops nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.support.gateway import Gateway, eventually, process, route, running, write_config

from llmops.core.errors import ConfigError, ConflictError
from llmops.gateway.config import GatewayConfig
from llmops.gateway.listen import address, join, listen
from llmops.gateway.published import load_published, publish, refuse_open_door


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    write_config(path)
    return path


@pytest.fixture
def two(file: Path) -> Iterator[Gateway]:
    write_config(file, workers=2)
    with running(file) as gateway:
        yield gateway


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def workers(gateway: Gateway) -> set[int]:
    return {one.pid for one in gateway.status().processes if one.name.startswith("worker")}


def routes(gateway: Gateway) -> list[str]:
    with gateway.client() as client:
        found: list[str] = client.get("/").json()["routes"]
    return found


def hit_all(gateway: Gateway, count: int) -> set[int]:
    """The workers that answered so far, until all of them have."""
    pids: set[int] = set()

    def enough() -> bool:
        with gateway.client() as client:
            pids.add(client.get("/").json()["pid"])
        return len(pids) >= count

    eventually(enough)
    return pids


@pytest.mark.kill
def test_a_killed_worker_returns_while_others_answer(two: Gateway) -> None:
    before = workers(two)
    assert hit_all(two, 2) == before
    os.kill(two.pid("worker 0"), signal.SIGKILL)
    for _ in range(50):  # none is refused: what waits for the dead one is answered by its successor
        assert routes(two) == ["first"]
    after = eventually(lambda: found if 0 not in (found := workers(two)) and found != before else None)
    assert len(before & after) == 1
    worker = next(one for one in two.status().processes if one.name == "worker 0")
    assert (worker.restarts, worker.last_end) == (1, "ended by SIGKILL")
    assert hit_all(two, 2) == after


@pytest.mark.kill
def test_killing_control_leaves_the_workers_answering(two: Gateway) -> None:
    pid = eventually(lambda: two.pid("control"))
    os.kill(pid, signal.SIGKILL)
    assert routes(two) == ["first"]
    again = eventually(lambda: next((one for one in two.status().processes if one.name == "control"), None))
    assert again is not None
    eventually(lambda: two.pid("control") not in (0, pid))
    assert routes(two) == ["first"]


@pytest.mark.kill
def test_all_end_with_a_killed_supervisor_and_the_folder_is_free(two: Gateway) -> None:
    pids = [two.pid("worker 0"), two.pid("worker 1"), eventually(lambda: two.pid("control"))]
    two.process.kill()
    eventually(lambda: not any(alive(pid) for pid in pids))
    with running(two.file) as again:
        assert routes(again) == ["first"]


def test_a_changed_file_is_taken_over_without_a_dropped_request(two: Gateway) -> None:
    seen: list[list[str]] = []
    failures: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                with two.client() as client:
                    seen.append(client.get("/slow").json()["routes"])
            except (httpx.HTTPError, ValueError) as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        write_config(two.file, workers=3, routes=[route("second")])
        eventually(lambda: seen and seen[-1] == ["second"])
        write_config(two.file, workers=3, routes=[route("third")])
        two.process.send_signal(signal.SIGHUP)
        eventually(lambda: seen[-1] == ["third"] and len(two.status().processes) == 4)
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert failures == []
    assert two.status().reload.ok
    assert {tuple(names) for names in seen} <= {("first",), ("second",), ("third",)}


def test_a_surplus_worker_leaves(two: Gateway) -> None:
    write_config(two.file, workers=1)
    eventually(lambda: [one.name for one in two.status().processes] == ["worker 0", "control"])
    assert routes(two) == ["first"]


WRONG: list[tuple[dict[str, object], str]] = [
    ({"routes": [{"name": "x", "targets": [{"provider": "gone", "model": "m"}]}]}, "names the provider `gone`"),
    ({"routes": [route("impossible")]}, "no worker could run with this"),
    ({"catalog": "other"}, "`catalog` cannot change"),
    ({"routes": []}, "a gateway needs a route"),
]


def test_a_bad_file_is_refused_and_the_old_one_stays(file: Path) -> None:
    with running(file) as gateway:

        def refused(said: str) -> None:
            eventually(lambda: not gateway.status().reload.ok and said in gateway.status().reload.error)
            assert routes(gateway) == ["first"]
            assert [one.name for one in load_published(gateway.folder).routes] == ["first"]
            eventually(lambda: said in "".join(gateway.said))

        for wrong, said in WRONG:
            write_config(file, **wrong)
            refused(said)
        file.write_text("routes: [")
        refused("not valid YAML")
        write_config(file, routes=[route("second")])
        eventually(lambda: routes(gateway) == ["second"])
        eventually(lambda: gateway.status().reload.ok)  # told once all workers know


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_running_replies_end(file: Path, number: signal.Signals) -> None:
    with running(file) as gateway:
        eventually(lambda: gateway.pid("control"))
        with gateway.client() as client, client.stream("GET", "/slow") as reply:
            pids = [one.pid for one in gateway.status().processes]
            assert gateway.stop(number) == (130 if number == signal.SIGINT else 0)
            assert json.loads(reply.read())["routes"] == ["first"]
        assert not any(alive(pid) for pid in pids if pid)
        assert [one.pid for one in gateway.status().processes] == [0, 0]


def test_a_worker_that_cannot_start_is_the_gateways_error(file: Path) -> None:
    with process(file, "refuse") as gateway:
        assert gateway.process.wait(60) == 1
    assert "error: this worker cannot start" in "".join(gateway.said)
    assert "--> somewhere" in "".join(gateway.said)


def test_a_worker_that_keeps_dying_ends_the_gateway(file: Path) -> None:
    with process(file, "die") as gateway:
        assert gateway.process.wait(120) == 1
    said = "".join(gateway.said)
    assert "worker 0 ended 5 times as soon as it was started: exit code 70" in said
    assert "the worker has a defect" in said


def test_only_one_gateway_runs_on_a_folder(file: Path) -> None:
    with running(file) as gateway:
        with process(file) as second:
            assert second.process.wait(60) == 1
        said = "".join(second.said)
        assert "another gateway runs on this state folder" in said
        assert f"process {gateway.process.pid}" in said


def test_a_taken_port_names_its_holder(tmp_path: Path, file: Path) -> None:
    with running(file) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        other = tmp_path / "other.yaml"
        write_config(other, port=port, state={"dir": str(tmp_path / "elsewhere")})
        with process(other) as second:
            assert second.process.wait(60) == 1
        said = "".join(second.said)
        assert f"port {port} is in use by process" in said
        assert "gateway_process.py" in said
        assert f"--set port={port + 1}" in said


def test_sockets_that_share_a_port() -> None:
    with listen("127.0.0.1", 0, setting="port") as first, join(first, setting="port") as second:
        assert address(first) == address(second)
        with pytest.raises(ConflictError, match=f"in use by process {os.getpid()}"):
            listen("127.0.0.1", first.getsockname()[1], setting="port")
    with pytest.raises(ConfigError, match="cannot be listened on"):
        listen("192.0.2.1", 0, setting="control.port")
    if socket.has_ipv6:
        with listen("::1", 0, setting="port") as six:
            assert address(six).startswith("http://[::1]:")


def test_an_open_door_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    write_config(file, host="0.0.0.0")
    with process(file) as gateway:
        assert gateway.process.wait(60) == 1
    assert "spend your money" in "".join(gateway.said)
    assert not (tmp_path / "state").exists()
    write_config(file, host="0.0.0.0", require_keys=True)
    refuse_open_door(gateway_config(file))


def test_the_published_configuration_is_the_checked_one(tmp_path: Path, file: Path) -> None:
    write_config(file, teams={"a": {"budgets": [{"usd": "0.000000001", "period": "day"}]}}, workers=3)
    config = gateway_config(file)
    publish(config)
    assert load_published(config.folder) == config


def gateway_config(file: Path) -> GatewayConfig:
    import yaml

    return GatewayConfig.model_validate(yaml.safe_load(file.read_text()))
