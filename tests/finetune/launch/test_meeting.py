"""Two nodes on this machine: what fails on one ends an attempt on both; they start again together, not for ever."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.ports import free_port

from llmops.core.errors import LlmopsError, UnavailableError, UserError
from llmops.finetune.engines.signals import Stopped
from llmops.finetune.launch import meeting
from llmops.finetune.launch.local import Supervised
from llmops.finetune.launch.place import Node
from llmops.finetune.launch.processes import Ranks
from llmops.finetune.launch.together import Patience, leading, lend

PATIENT = Patience(join_s=120, gather_s=120, part_s=60)
"""Bounds that a sound meeting does not come near, however slow the machine."""


class Pair:
    """A leader and a follower in threads; what each said, and came to."""

    def __init__(self, folder: Path, *, steps: int, restarts: int = 2, patience: Patience = PATIENT) -> None:
        self.folder, self.patience, self.restarts = folder, patience, restarts
        self.nodes = [Node(number, 2, "127.0.0.1", free_port()) for number in range(2)]
        self.nodes[1] = Node(1, 2, "127.0.0.1", self.nodes[0].port)
        self.ranks = Ranks(
            "tests.support.launch_rank", (str(folder), str(steps)), 1, folder / "logs", restarts, pause_s=0.01
        )
        self.said: dict[int, list[str]] = {0: [], 1: []}
        self.came: dict[int, Supervised | LlmopsError | None] = {}

    def lead(self) -> None:
        with leading(self.nodes[0], self.patience) as leader:
            self.came[0] = leader.train(self.ranks, self.folder, self.said[0].append)

    def follow(self) -> None:
        lend(self.nodes[1], lambda folder: self.ranks, self.restarts, self.said[1].append, self.patience)
        self.came[1] = None

    def start(self) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._caught, args=[*one]) for one in ((0, self.lead), (1, self.follow))]
        for thread in threads:
            thread.start()
        return threads

    def run(self) -> None:
        for thread in self.start():
            thread.join(240)

    def _caught(self, number: int, act: Callable[[], None]) -> None:
        try:
            act()
        except LlmopsError as error:
            self.came[number] = error

    @property
    def saved(self) -> int:
        return int((self.folder / "saved").read_text()) if (self.folder / "saved").exists() else 0


@pytest.mark.kill
def test_two_nodes_start_again_together(tmp_path: Path) -> None:
    pair = Pair(tmp_path, steps=30)
    (tmp_path / "hold").write_text("3")
    threads = pair.start()

    def wait_for(true: Callable[[], bool]) -> None:
        while not true():
            assert all(thread.is_alive() for thread in threads)
            time.sleep(0.01)

    wait_for(lambda: pair.saved == 3)
    os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
    wait_for(lambda: len((tmp_path / "log").read_text().splitlines()) == 4)
    (tmp_path / "hold").unlink()
    for thread in threads:
        thread.join(240)
    done = pair.came[0]
    assert isinstance(done, Supervised)
    assert (done.attempts, pair.came[1], pair.saved) == (2, None, 30)
    assert str(done.failures[0]) == "rank 1 (node 1) was ended by SIGKILL"
    assert pair.said[0] == ["rank 1 (node 1) was ended by SIGKILL; starting all ranks again (1 of 2) in 0.01 s"]
    starts = [int(line.split()[2]) for line in (tmp_path / "log").read_text().splitlines()]
    assert starts == [0, 0, 3, 3]  # both ranks, twice


def test_an_error_of_a_rank_elsewhere_is_told_in_its_words_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "exit-1").write_text("1")
    pair = Pair(tmp_path, steps=500)
    pair.run()
    first, second = pair.came[0], pair.came[1]
    assert isinstance(first, UserError)
    assert (first.what, first.where) == ("the loss is not a number", "step 3")
    assert second is None  # node 0's exit code is the job's
    assert pair.said[1][-1] == "node 1 of 2: node 0 ended: the loss is not a number"
    assert not (tmp_path / "logs" / "attempt-2").exists()


def test_restarts_of_nodes_come_to_an_end(tmp_path: Path) -> None:
    (tmp_path / "exit-1").write_text("9")
    pair = Pair(tmp_path, steps=500, restarts=1)
    pair.run()
    first, second = pair.came[0], pair.came[1]
    assert isinstance(first, UnavailableError)
    assert first.what == "rank 1 (node 1) ended with code 9, after 2 attempts"
    assert second is None
    assert len(pair.said[0]) == 1


def test_a_node_that_does_not_come_or_falls_silent_is_named(tmp_path: Path) -> None:
    pair = Pair(tmp_path, steps=500, patience=Patience(gather_s=0.3, part_s=0.1))
    with pytest.raises(UnavailableError, match="node 1 did not come within 0 s"):
        pair.lead()
    pair = Pair(tmp_path, steps=500, restarts=0, patience=Patience(silent_s=0.5, part_s=0.1))

    def fall_silent() -> None:
        met = meeting.joined(pair.nodes[1], within_s=120, look=lambda: None)
        met.count("here/1/1", 1)

    node = threading.Thread(target=fall_silent)
    node.start()
    with pytest.raises(UnavailableError, match="node 1 is not heard of for 0 s, after 1 attempt"):
        pair.lead()
    node.join()


def test_node_0_is_waited_for_as_often_as_it_may_be_lost(tmp_path: Path) -> None:
    pair = Pair(tmp_path, steps=5, restarts=1, patience=Patience(join_s=1, part_s=0.1))
    with pytest.raises(UnavailableError, match="node 0 cannot be reached within 1 s"):
        pair.follow()


def test_who_is_asked_to_end_tells_the_others(tmp_path: Path) -> None:
    pair = Pair(tmp_path, steps=5)

    def asked() -> None:
        with leading(pair.nodes[0], PATIENT):
            raise Stopped("training was asked to end and did")

    threads = [threading.Thread(target=pair._caught, args=[*one]) for one in ((0, asked), (1, pair.follow))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert isinstance(pair.came[0], Stopped)
    assert pair.came[1] is None
    assert pair.said[1][-1] == "node 1 of 2: node 0 ended: training was asked to end and did"


def test_a_taken_port_is_an_error_of_its_own(tmp_path: Path) -> None:
    node = Node(0, 2, "127.0.0.1", free_port())
    kept = meeting.opened(node)
    with pytest.raises(UnavailableError, match=f"nodes cannot meet at port {node.port}"):
        meeting.opened(node)
    del kept


def test_a_word_of_an_earlier_start_is_not_answered_as_this_one(tmp_path: Path) -> None:
    met = meeting.opened(Node(0, 2, "127.0.0.1", free_port()))
    met.tell("ask/1", "stale")
    came: list[object] = []
    rank = threading.Thread(target=lambda: (time.sleep(0.3), came.append(met.ask(1))))
    rank.start()
    assert met.answer([1], {"folder": "a"}, within_s=120) == []
    rank.join()
    assert came == [{"folder": "a"}]
    assert met.answer([2], {}, within_s=0.2) == [2]
