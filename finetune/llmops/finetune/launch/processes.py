"""The ranks of one machine for one attempt: started together, watched, and ended together.

The first that fails ends the others, and so does a failure elsewhere. Told to stop (USR1, TERM, Ctrl-C) they are told
to save and to end, and waited for; told twice they are not. What ranks print lies in the run's `logs`.

Knows processes and signals; what a rank does is the module that it is given. No torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from llmops.core.secret import resolve_secret
from llmops.finetune.launch.rank import PARENT

_LOOK_EVERY_S = 0.05
_END_WITHIN_S = 10.0
_SAVE_WITHIN_S = 150.0


@dataclass(frozen=True)
class Ranks:
    """What is to be run, and how often.

    Args:
        module: run as `python -m MODULE ARGUMENT...` in every rank.
        processes: of one machine.
        logs: folder of `attempt-1/rank-0.log` and so on.
        environment: variables of the ranks; a value may be a reference to a secret.
        restarts: how often all ranks are started again after one failed.
        pause_s: before the first restart; doubled for each further one.
    """

    module: str
    arguments: tuple[str, ...]
    processes: int
    logs: Path
    restarts: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    pause_s: float = 1.0


@dataclass(frozen=True)
class Seats:
    """Which ranks of how many are this machine's, and the variables by which all of them meet.

    Args:
        node: this machine's number, where there are several.
    """

    ranks: int
    first: int = 0
    node: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """How one attempt ended: which rank failed first, by what, and where it printed its last words.

    Args:
        node: whose rank it was, where there are several; the node itself, where `rank` is None.
        said: of a node, what became of it.
    """

    attempt: int
    rank: int | None
    code: int
    log: Path
    node: int | None = None
    said: str = ""

    def __str__(self) -> str:
        if self.rank is None:
            return f"node {self.node} {self.said}"
        how = f"was ended by {signal.Signals(-self.code).name}" if self.code < 0 else f"ended with code {self.code}"
        return f"rank {self.rank}{'' if self.node is None else f' (node {self.node})'} {how}"


class Stop(threading.Event):
    """Set once a stop was asked for; `again` when it was asked for twice."""

    again = False


@contextmanager
def stopping() -> Iterator[Stop]:
    """Signals ask for a stop meanwhile; outside of the main thread, where Python allows no handlers, none do."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def heard(number: int, frame: FrameType | None) -> None:
        stop.again = stop.is_set()
        stop.set()

    before = {number: signal.signal(number, heard) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_attempt(
    ranks: Ranks, attempt: int, stop: Stop, seats: Seats, elsewhere: Callable[[], Failure | None] = lambda: None
) -> Failure | None:
    """Start this machine's ranks and watch until all have ended well, or something has failed.

    Args:
        elsewhere: asked again and again for a failure on another machine.
    """
    folder = ranks.logs / f"attempt-{attempt}"
    folder.mkdir(parents=True, exist_ok=True)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for local in range(ranks.processes):
            processes.append(start(ranks, local, seats, folder / f"rank-{seats.first + local}.log"))
        failed = _watch(processes, stop, elsewhere)
        if failed is None or isinstance(failed, Failure):
            return failed
        rank = seats.first + failed
        return Failure(attempt, rank, processes[failed].returncode, folder / f"rank-{rank}.log", seats.node)
    finally:
        _end(processes)


def start(ranks: Ranks, local: int, seats: Seats, log: Path) -> subprocess.Popen[bytes]:
    """One rank's process."""
    threads = str(max(1, (os.cpu_count() or 1) // ranks.processes))
    environment = {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        **values(ranks.environment),
        "RANK": str(seats.first + local),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(seats.ranks),
        "LOCAL_WORLD_SIZE": str(ranks.processes),
        **seats.variables,
        PARENT: str(os.getpid()),
    }
    with log.open("ab") as file:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "llmops.finetune.launch.rank", ranks.module, *ranks.arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,  # Ctrl-C is the supervisor's, which passes it on as a wish to stop
        )


def values(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables with their values: a reference is resolved for the rank alone.

    On a cluster the artefact has set a variable of the name itself, and what it refers to may not be there.
    """
    found = {}
    for name, text in environment.items():
        given = text.startswith("env:") and text.removeprefix("env:") not in os.environ and name in os.environ
        if given:
            found[name] = os.environ[name]
        else:
            found[name] = resolve_secret(text) if text.startswith(("env:", "file:")) else text
    return found


def _watch(
    processes: Sequence[subprocess.Popen[bytes]], stop: Stop, elsewhere: Callable[[], Failure | None]
) -> int | Failure | None:
    """The rank that failed first, a failure elsewhere, or None where all ended well."""
    until: float | None = None
    while True:
        codes = [process.poll() for process in processes]
        failed = _first(codes)
        if failed is not None or all(code == 0 for code in codes):
            return failed
        if (other := elsewhere()) is not None:
            return other
        if stop.is_set() and until is None:
            until = time.monotonic() + _SAVE_WITHIN_S
            for process in processes:
                _tell(process, signal.SIGUSR1)
        if stop.again or (until is not None and time.monotonic() > until):
            _end(processes, within_s=0.0)
            continue
        time.sleep(_LOOK_EVERY_S)


def _first(codes: Sequence[int | None]) -> int | None:
    """Which rank failed: one that was killed before those that noticed, and failed for it."""
    failed = [(code > 0, rank) for rank, code in enumerate(codes) if code]
    return min(failed)[1] if failed else None


def _tell(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _end(processes: Sequence[subprocess.Popen[bytes]], within_s: float = _END_WITHIN_S) -> None:
    """No rank outlives its attempt: asked first, then killed (a rank that waits in a collective hears nothing)."""
    for process in processes:
        _tell(process, signal.SIGTERM)
    until = time.monotonic() + within_s
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
