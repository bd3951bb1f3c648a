"""Watches the ranks of one machine: one dies, the others are ended, and all start again from the newest checkpoint.

A rank that ends by a signal or an unforeseen error is started again, up to `launch.restarts`; one that ends with a
user's error (1) or a gate's no (3) would only do so again. Told to stop (USR1, TERM, Ctrl-C) it tells the ranks to save
and to end, and waits for them; told twice it does not. What ranks print lies in the run's `logs`.

Knows processes and signals; what a rank does is the module that it is given. No torch.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from llmops.core.errors import GateFailedError, LlmopsError, UnavailableError, UserError
from llmops.core.secret import resolve_secret
from llmops.finetune.launch.rank import PARENT

_LOOK_EVERY_S = 0.05
_END_WITHIN_S = 10.0
_SAVE_WITHIN_S = 150.0
_FINAL = {1: UserError, 3: GateFailedError}
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Ranks:
    """What is to be run, and how often.

    Args:
        module: run as `python -m MODULE ARGUMENT...` in every rank.
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
class Failure:
    """How one attempt ended: which rank failed first, by what, and the last that it printed."""

    attempt: int
    rank: int
    code: int
    log: Path

    def __str__(self) -> str:
        how = f"was ended by {signal.Signals(-self.code).name}" if self.code < 0 else f"ended with code {self.code}"
        return f"rank {self.rank} {how}"


@dataclass(frozen=True)
class Supervised:
    """What came of it. `interrupted`: the ranks saved and ended because they were told to."""

    attempts: int
    failures: tuple[Failure, ...] = ()
    interrupted: bool = False


def supervise(ranks: Ranks, told: Callable[[str], None] = lambda text: None) -> Supervised:
    """Run all ranks until they are through.

    Args:
        told: hears of each failure and restart.

    Raises:
        UserError, GateFailedError: a rank ended with such an error; its words are in it.
        UnavailableError: a rank failed, and no restart is left.
    """
    failures: list[Failure] = []
    with stopping() as stop:
        while True:
            attempt = len(failures) + 1
            failure = _attempt(ranks, attempt, stop)
            if failure is None:
                return Supervised(attempt, tuple(failures), interrupted=stop.is_set())
            if stop.is_set() and failure.code < 0:  # a rank that had not begun, or was too slow to save
                return Supervised(attempt, tuple(failures), interrupted=True)
            failures.append(failure)
            if failure.code in _FINAL:
                raise _in_its_words(failure)
            if stop.is_set() or attempt > ranks.restarts:
                raise _given_up(failure, attempt)
            pause_s = ranks.pause_s * 2 ** (attempt - 1)
            told(f"{failure}; starting all ranks again ({attempt} of {ranks.restarts}) in {pause_s:g} s")
            stop.wait(pause_s)


def last_lines(log: Path, most: int = 5) -> list[str]:
    """The end of what a rank printed."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace").strip().splitlines()[-most:]


class _Stop(threading.Event):
    """Set once a stop was asked for; `again` when it was asked for twice."""

    again = False


@contextmanager
def stopping() -> Iterator[_Stop]:
    """Signals ask for a stop meanwhile; outside of the main thread, where Python allows no handlers, none do."""
    stop = _Stop()
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


def _attempt(ranks: Ranks, attempt: int, stop: _Stop) -> Failure | None:
    """Start every rank and watch until all have ended, or the first has failed."""
    folder = ranks.logs / f"attempt-{attempt}"
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(ranks.processes):
            processes.append(_start(ranks, rank, port, folder / f"rank-{rank}.log"))
        failed = _watch(processes, stop)
        if failed is None:
            return None
        return Failure(attempt, failed, processes[failed].returncode, folder / f"rank-{failed}.log")
    finally:
        _end(processes)


def _start(ranks: Ranks, rank: int, port: int, log: Path) -> subprocess.Popen[bytes]:
    size = str(ranks.processes)
    threads = str(max(1, (os.cpu_count() or 1) // ranks.processes))
    environment = {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        **{name: _value(text) for name, text in ranks.environment.items()},
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
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


def _value(text: str) -> str:
    """A variable's value; a reference is resolved for the rank alone."""
    return resolve_secret(text) if text.startswith(("env:", "file:")) else text


def _watch(processes: Sequence[subprocess.Popen[bytes]], stop: _Stop) -> int | None:
    """The first rank that failed, or None where all ended well."""
    until: float | None = None
    while True:
        codes = [process.poll() for process in processes]
        failed = next((rank for rank, code in enumerate(codes) if code), None)
        if failed is not None or all(code == 0 for code in codes):
            return failed
        if stop.is_set() and until is None:
            until = time.monotonic() + _SAVE_WITHIN_S
            for process in processes:
                _tell(process, signal.SIGUSR1)
        if stop.again or (until is not None and time.monotonic() > until):
            _end(processes, within_s=0.0)
            continue
        time.sleep(_LOOK_EVERY_S)


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


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _in_its_words(failure: Failure) -> LlmopsError:
    """The error that the rank printed: `error:` with its lines."""
    lines = last_lines(failure.log, most=40)
    begin = max((number for number, line in enumerate(lines) if line.startswith("error: ")), default=None)
    if begin is None:
        return _FINAL[failure.code](str(failure), where=str(failure.log), hint=lines[-1] if lines else None)
    told = {"what": lines[begin].removeprefix("error: "), "where": str(failure.log), "hint": None}
    for line in lines[begin + 1 :]:
        if line.startswith("  --> "):
            told["where"] = line.removeprefix("  --> ")
        elif line.startswith("hint: "):
            told["hint"] = line.removeprefix("hint: ")
    return _FINAL[failure.code](str(told["what"]), where=told["where"], hint=told["hint"])


def _given_up(failure: Failure, attempts: int) -> UnavailableError:
    last = last_lines(failure.log)
    return UnavailableError(
        f"{failure}, after {attempts} attempt{'s' * (attempts > 1)}",
        where=str(failure.log),
        hint=(f"it last said: {last[-1]}; " if last else "") + "`llmops finetune resume` goes on from the checkpoint",
        code="rank_failed",
    )
