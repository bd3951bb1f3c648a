"""Nodes of a cluster as processes of this machine: each is forked, and forks its ranks; torch is loaded once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.training import forked

from llmops.core.errors import LlmopsError, render
from llmops.core.fences import die_with_parent
from llmops.finetune import worker
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.launch import inside, processes
from llmops.finetune.launch.processes import Ranks, Seats


def node(
    config: FinetuneConfig, variables: Mapping[str, str], log: Path, before: Callable[[], None] = lambda: None
) -> int:
    """Start a node, as a launcher would that sets these variables; gives its process id. `before` is called in it."""

    def run() -> int:
        from llmops.finetune.nodes import run_placed

        _print_into(log)
        os.environ |= variables
        processes.start = _fork  # type: ignore[assignment]
        before()
        place = inside()
        assert place is not None
        try:
            run_placed(place, config, listen=lambda event: print(event, flush=True))
        except LlmopsError as error:
            print(render(error), flush=True)
            return error.exit_code
        return 0

    return forked(run)


def ended(process: int, within_s: float = 120) -> int:
    """The exit code of a process, once it has ended."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError("it did not end")


class _Forked:
    """What is asked of a `Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if found else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (timeout or 60)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("rank", timeout or 60)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _fork(ranks: Ranks, local: int, seats: Seats, log: Path) -> Any:
    """In place of `processes.start`."""

    def run() -> int:
        os.environ |= {
            "RANK": str(seats.first + local), "LOCAL_RANK": str(local), "WORLD_SIZE": str(seats.ranks),
            "LOCAL_WORLD_SIZE": str(ranks.processes), **seats.variables,
        }  # fmt: skip
        die_with_parent()
        _close_sockets()
        _print_into(log)
        return worker.main(list(ranks.arguments))

    return _Forked(forked(run))


def _close_sockets() -> None:
    """A process that is started by exec inherits none; the store's door is not to stay open when its node is dead."""
    for one in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(one.readlink()).startswith("socket:"):
                os.close(int(one.name))


def _print_into(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)
