"""Ranks that are really killed start again from what was saved; those that end by a user's error do not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from llmops.core.errors import GateFailedError, UnavailableError, UserError
from llmops.finetune.launch import meeting
from llmops.finetune.launch.local import Alone, supervise
from llmops.finetune.launch.place import Node
from llmops.finetune.launch.processes import Ranks, Stop


def ranks(folder: Path, *, steps: int, processes: int = 2, restarts: int = 2) -> Ranks:
    return Ranks(
        "tests.support.launch_rank", (str(folder), str(steps)), processes, folder / "logs", restarts, pause_s=0.01
    )


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def saved(folder: Path) -> int:
    return int((folder / "saved").read_text()) if (folder / "saved").exists() else 0


def alive(process: int) -> bool:
    """Not ended, and no zombie either."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.kill
def test_after_a_kill_all_ranks_go_on_from_what_was_saved(tmp_path: Path) -> None:
    heard: list[str] = []

    def kill() -> None:
        wait_for(lambda: saved(tmp_path) == 3)
        os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
        wait_for(lambda: len((tmp_path / "log").read_text().splitlines()) == 4)
        (tmp_path / "hold").unlink()

    (tmp_path / "hold").write_text("3")
    killer = threading.Thread(target=kill)
    killer.start()
    done = supervise(ranks(tmp_path, steps=30), heard.append)
    killer.join()
    assert done.attempts == 2
    assert (done.failures[0].rank, done.failures[0].code) == (1, -signal.SIGKILL)
    assert heard == ["rank 1 was ended by SIGKILL; starting all ranks again (1 of 2) in 0.01 s"]
    assert saved(tmp_path) == 30
    starts = sorted(int(line.split()[2]) for line in (tmp_path / "log").read_text().splitlines())
    assert starts == [0, 0, 3, 3]
    ports = {line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()}
    assert len(ports) == 2  # nobody waits at the door of those who are gone


def test_a_port_stays_the_ranks_own_until_they_listen() -> None:
    """Between its choice and that torch is loaded there are seconds."""
    with closing(Alone(2)) as alone:
        first, second = (int(alone.gather(attempt, Stop()).variables["MASTER_PORT"]) for attempt in (1, 2))
        assert first != second
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", first))
        assert meeting.opened(Node(0, 2, "127.0.0.1", first)).count("met", 1) == 1


@pytest.mark.kill
def test_restarts_come_to_an_end(tmp_path: Path) -> None:
    (tmp_path / "exit-1").write_text("9")
    with pytest.raises(UnavailableError, match="rank 1 ended with code 9, after 3 attempts") as caught:
        supervise(ranks(tmp_path, steps=500))
    assert str(caught.value.where).endswith("attempt-3/rank-1.log")
    assert not alive(int((tmp_path / "pid-0").read_text()))  # the rank that was well went along


@pytest.mark.parametrize(("code", "kind"), [(1, UserError), (3, GateFailedError)])
def test_an_error_that_would_only_come_again_is_told_at_once(tmp_path: Path, code: int, kind: type[Exception]) -> None:
    (tmp_path / "exit-0").write_text(str(code))
    with pytest.raises(kind, match="the loss is not a number") as caught:
        supervise(ranks(tmp_path, steps=500))
    assert (caught.value.where, caught.value.hint) == ("step 3", "lower train.lr")  # type: ignore[attr-defined]
    assert not (tmp_path / "logs" / "attempt-2").exists()


def _supervisor(folder: Path, steps: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.launch_supervisor", str(folder), str(steps), "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_the_ranks_save_and_end(tmp_path: Path, number: signal.Signals) -> None:
    supervisor = _supervisor(tmp_path, 100_000)
    wait_for(lambda: saved(tmp_path) >= 2)
    supervisor.send_signal(number)
    said, _ = supervisor.communicate(timeout=120)
    assert (supervisor.returncode, said) == (0, "True\n")
    for rank in range(2):
        assert not alive(int((tmp_path / f"pid-{rank}").read_text()))


@pytest.mark.kill
def test_a_killed_supervisor_takes_its_ranks_along(tmp_path: Path) -> None:
    supervisor = _supervisor(tmp_path, 100_000)
    wait_for(lambda: saved(tmp_path) >= 2 and (tmp_path / "pid-1").exists())
    processes = [int((tmp_path / f"pid-{rank}").read_text()) for rank in range(2)]
    supervisor.kill()
    supervisor.communicate(timeout=120)
    wait_for(lambda: not any(map(alive, processes)))
