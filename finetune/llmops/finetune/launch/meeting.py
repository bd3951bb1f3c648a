"""The ranks of several nodes: PyTorch's agent (torchrun) on each, which lets them meet and starts them again together.

On one machine `local` watches the ranks itself. Over several only an agreement among the nodes can start all of them
again, and torchrun's c10d rendezvous is that. The node that leads tells the others by a file in the run's folder which
run it is; they wait for it, and lend their ranks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from llmops.core.errors import UnavailableError
from llmops.core.files import write_atomic
from llmops.finetune.launch.local import Supervised, stopping
from llmops.finetune.launch.node import Node
from llmops.finetune.launch.rank import PARENT

_LOOK_EVERY_S = 0.5
_NOT_PASSED_ON = "PET_"
"""torchrun reads these as its own arguments; a cluster's operator set them for a torchrun of its own."""


def agent_command(node: Node, processes: int, restarts: int, rendezvous_id: str) -> list[str]:
    """torchrun of one node, up to the module it runs."""
    return [
        sys.executable,
        "-m",
        "llmops.finetune.launch.rank",
        "torch.distributed.run",
        f"--nnodes={node.nodes}",
        f"--nproc-per-node={processes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={node.rendezvous}",
        f"--rdzv-id={rendezvous_id}",
        f"--max-restarts={restarts}",
        "-m",
        "llmops.finetune.launch.rank",
    ]


def meet(
    node: Node,
    command: list[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    *,
    save_within_s: float = 150,
) -> Supervised:
    """Run this node's agent until training is over on all nodes.

    Raises:
        UnavailableError: it failed more often than it may be restarted.
    """
    passed = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with stopping() as stop, log.open("ab") as file:
        agent = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=passed | dict(environment or {}) | {PARENT: str(os.getpid())},
            process_group=0,
        )
        asked: float | None = None
        while agent.poll() is None:
            if stop.is_set() and asked is None:
                asked = time.monotonic()
                for rank in descendants(agent.pid):
                    _signal(rank, signal.SIGUSR1)
            if stop.again or (asked is not None and time.monotonic() - asked > save_within_s):
                agent.terminate()  # it ends its ranks
                agent.wait()
            time.sleep(0.1)
        if agent.returncode != 0:
            raise UnavailableError(
                f"training failed on node {node.rank}",
                where=str(log),
                hint="see the log's last lines",
                code="rank_failed",
            )
        return Supervised(1, interrupted=stop.is_set())


def descendants(process: int) -> list[int]:
    """Every process below one, as the kernel lists them (Linux)."""
    found: list[int] = []
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(child) for child in listed.read_text().split()]
        except OSError:
            continue  # that thread has just ended
        for child in children:
            found += [child, *descendants(child)]
    return found


def announce(place: Path, run_folder: Path, attempt: str) -> None:
    """Tell the other nodes that the run is prepared.

    Args:
        attempt: names this start of the job, so that nobody follows what an earlier one has left.
    """
    write_atomic(place, orjson.dumps({"run": str(run_folder), "attempt": attempt}))


def await_run(place: Path, attempt: str, *, within_s: float, look: Callable[[], None] = lambda: None) -> Path:
    """Wait until node 0 has prepared the run.

    Raises:
        UnavailableError: it did not in time.
    """
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        look()
        if place.is_file():
            told = orjson.loads(place.read_bytes())
            if told["attempt"] == attempt:
                return Path(told["run"])
        time.sleep(_LOOK_EVERY_S)
    raise UnavailableError(
        f"node 0 has not prepared the run within {within_s:.0f} s",
        where=str(place),
        hint="look at its log; do all nodes see launch.shared_dir?",
    )


def _signal(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return  # it has ended meanwhile
