"""Two nodes' agents on this machine: a rank of one is killed, and the ranks of both start again together."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from llmops.finetune.launch.local import Supervised
from llmops.finetune.launch.meeting import agent_command, meet
from llmops.finetune.launch.node import Node


@pytest.mark.kill
def test_two_nodes_start_again_together(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    ended: dict[int, Supervised] = {}
    # without a name of its own a machine is not sure that 127.0.0.1 is itself
    environment = {"PET_LOCAL_ADDR": "127.0.0.1"}

    def lend(number: int) -> None:
        node = Node(number, 2, "127.0.0.1", port)
        command = [*agent_command(node, 1, 2, "run-1"), "tests.support.launch_rank", str(tmp_path), "40"]
        ended[number] = meet(node, command, tmp_path / f"node-{number}.log", environment)

    nodes = [threading.Thread(target=lend, args=[number]) for number in range(2)]
    for node in nodes:
        node.start()
    saved = tmp_path / "saved"
    while not saved.exists() or int(saved.read_text()) < 3:
        assert all(node.is_alive() for node in nodes)
        time.sleep(0.01)
    os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
    for node in nodes:
        node.join(60)
    assert ended == {0: Supervised(1), 1: Supervised(1)}
    assert int(saved.read_text()) == 40
    starts = [int(line.split()[2]) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(starts) == 4  # both ranks, twice
    assert all(start >= 3 for start in starts[2:])
