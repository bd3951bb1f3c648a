"""Real SIGKILLs and simulated power cuts: no acknowledged durable record is lost, and none is there twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tests.support import spool_processes
from tests.support.powercut import PowerCut
from tests.support.records import FEEDBACK, LOG, log_row, thumb

from llmops.core.drain import Drainer
from llmops.core.lake import Lake
from llmops.core.spool import Spool
from llmops.core.state import StateConfig

KILLS = 200 if os.environ.get("LLMOPS_SOAK") else 12
WRITERS = 3


class Crowd:
    """Writers and a drainer that are killed and begun anew; remembers what was acknowledged."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.acknowledged: list[bytes] = []
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.support.spool_processes"])
        self._readers: list[threading.Thread] = []
        self.writers = [self._writer() for _ in range(WRITERS)]
        self.drainer = self._drainer()

    def kill_one(self) -> None:
        place = random.randrange(WRITERS + 1)
        if place == WRITERS:
            _kill(self.drainer)
            self.drainer = self._drainer()
        else:
            _kill(self.writers[place])
            self.writers[place] = self._writer()

    def kill_all(self) -> None:
        for process in (*self.writers, self.drainer):
            _kill(process)
        for reader in self._readers:
            reader.join()

    def _writer(self) -> BaseProcess:
        receive, send = self._context.Pipe(duplex=False)
        process = self._started(spool_processes.write_forever, self.root, send, 4)
        send.close()
        reader = threading.Thread(target=self._listen, args=(receive,))
        reader.start()
        self._readers.append(reader)
        return process

    def _drainer(self) -> BaseProcess:
        return self._started(spool_processes.drain_forever, self.root)

    def _started(self, target: Callable[..., None], *args: object) -> BaseProcess:
        process = self._context.Process(target=target, args=args, daemon=True)
        process.start()
        return process

    def _listen(self, receive: Connection) -> None:
        with receive:
            while True:
                try:
                    self.acknowledged.append(receive.recv_bytes())
                except (EOFError, OSError):
                    return


def _kill(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    process.close()


@pytest.mark.kill
@pytest.mark.timeout(1800 if os.environ.get("LLMOPS_SOAK") else 300)
def test_random_kills_lose_nothing_acknowledged_and_double_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    random.seed(seed)
    crowd = Crowd(tmp_path)
    try:
        for _ in range(KILLS):
            seen = len(crowd.acknowledged)
            while len(crowd.acknowledged) < seen + 20:
                time.sleep(0.005)
            time.sleep(random.random() * 0.2)
            crowd.kill_one()
    finally:
        crowd.kill_all()

    state = StateConfig(dir=tmp_path)
    waiting = {row["feedback_id"] for row in Lake(state).rows(FEEDBACK)}
    Drainer(state).drain_once()

    (count,) = Lake(state).query(f"SELECT count(*) AS n, count(DISTINCT feedback_id) AS ids FROM {FEEDBACK}")
    stored = {row["feedback_id"] for row in Lake(state).rows(FEEDBACK, include_pending=False)}
    acknowledged = {one.decode() for one in crowd.acknowledged}
    assert len(acknowledged) >= 20 * KILLS, seed
    assert acknowledged <= stored, seed
    assert count["n"] == count["ids"], seed
    assert waiting == stored, seed
    (logged,) = Lake(state).query(f"SELECT count(*) AS n, count(DISTINCT invocation_id) AS ids FROM {LOG}")
    assert logged["n"] == logged["ids"] >= len(acknowledged), seed
    # A writer killed before it could name its segment has written nothing to it.
    assert all(path.name.startswith(".") and not path.stat().st_size for path in state.spool.glob("*.spool"))


def test_a_power_cut_in_the_spool_loses_nothing_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each segment is cut to its last fsynced byte, a segment whose name was not synced is gone."""
    root = tmp_path / "state"
    state = StateConfig(dir=root)
    cut = PowerCut(state.spool, monkeypatch)
    acknowledged: list[str] = []
    spool = Spool(state.spool, spool_processes.SMALL)

    def work() -> None:
        for _ in range(25):
            spool.append(LOG, log_row(request_json="x" * 500))
            row = thumb()
            spool.append(FEEDBACK, row, durable=True)
            acknowledged.append(row["feedback_id"])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    promises: list[tuple[set[str], Path]] = []
    while any(thread.is_alive() for thread in threads):
        promised = set(acknowledged)
        promises.append((promised, cut.restore(tmp_path / f"cut{len(promises)}" / "spool").parent))
        time.sleep(0.01)
    promises.append((set(acknowledged), cut.restore(tmp_path / "last" / "spool").parent))
    spool.close()

    assert len(promises[-1][0]) == 200
    for promised, folder in promises:
        survived = Lake(StateConfig(dir=folder)).rows(FEEDBACK)
        assert promised <= {row["feedback_id"] for row in survived}


def test_a_power_cut_after_draining_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a segment is removed, its records are on the disk: data files, log entry, and every folder's names."""
    root = tmp_path / "state"
    state = StateConfig(dir=root)
    root.mkdir()
    cut = PowerCut(root, monkeypatch)
    drainer = Drainer(state)
    rows = []
    for day in ("2026-01-30", "2026-01-31", "2026-02-01"):
        with Spool(state.spool) as spool:
            for _ in range(3):
                rows.append(log_row(request_time=f"{day}T12:00:00Z"))
                spool.append(LOG, rows[-1])
        assert drainer.drain_once() == 3
        assert not list(state.spool.glob("*.spool"))
        _survives(cut, tmp_path / day, rows)
    drainer.maintain()
    _survives(cut, tmp_path / "maintained", rows)


def _survives(cut: PowerCut, target: Path, rows: list[dict[str, object]]) -> None:
    survived = Lake(StateConfig(dir=cut.restore(target))).rows(LOG)
    assert {row["invocation_id"] for row in survived} == {row["invocation_id"] for row in rows}
