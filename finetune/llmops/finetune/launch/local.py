"""Starts all ranks again after one has failed, from the newest checkpoint, as often as it may, and says so.

A rank that ends by a signal or an unforeseen error is started again, up to `launch.restarts`; one that ends with a
user's error (1) or a gate's no (3) would only do so again, and its words are the error. Ranks of other machines are a
`Crew`'s: the same rules hold for all of them together.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llmops.core.errors import GateFailedError, LlmopsError, UnavailableError, UserError
from llmops.finetune.launch.processes import Failure, Ranks, Seats, Stop, run_attempt, stopping

FINAL = {1: UserError, 3: GateFailedError}
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Supervised:
    """What came of it. `interrupted`: the ranks saved and ended because they were told to."""

    attempts: int
    failures: tuple[Failure, ...] = ()
    interrupted: bool = False


class Crew(Protocol):
    """The machines that train together."""

    def gather(self, attempt: int, stop: Stop) -> Seats | None:
        """Wait until all are ready for an attempt, and let it begin; None where a stop was asked for meanwhile.

        Raises:
            UnavailableError: they are not, in time.
        """
        ...

    def elsewhere(self) -> Failure | None:
        """What has failed on another machine in this attempt."""
        ...

    def failed(self, failure: Failure) -> None:
        """Tell the others, so that they end their ranks, too."""
        ...


class Alone:
    """This machine only. Its ports stay its own until it is closed."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._held: list[socket.socket] = []

    def gather(self, attempt: int, stop: Stop) -> Seats:
        """Each attempt has a port of its own: nobody waits at the door of those who are gone.

        The port stays bound here, without listening: rank 0 listens there only once torch is loaded, and until then the
        system could have given it to anybody who asks for any.
        """
        held = socket.socket()
        self._held.append(held)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        return Seats(self._processes, variables={"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})

    def close(self) -> None:
        for one in self._held:
            one.close()

    def elsewhere(self) -> None:
        return None

    def failed(self, failure: Failure) -> None:
        """There is nobody to tell."""


def supervise(ranks: Ranks, told: Callable[[str], None] = lambda text: None, crew: Crew | None = None) -> Supervised:
    """Run all ranks until they are through.

    Args:
        told: hears of each failure and restart.
        crew: other machines; default: none.

    Raises:
        UserError, GateFailedError: a rank ended with such an error; its words are in it.
        UnavailableError: a rank failed, and no restart is left.
    """
    failures: list[Failure] = []
    with stopping() as stop, closing(Alone(ranks.processes)) as alone:
        crew = crew or alone
        while True:
            attempt = len(failures) + 1
            seats = crew.gather(attempt, stop)
            if seats is None:
                return Supervised(attempt, tuple(failures), interrupted=True)
            failure = run_attempt(ranks, attempt, stop, seats, crew.elsewhere)
            if failure is None:
                return Supervised(attempt, tuple(failures), interrupted=stop.is_set())
            if stop.is_set() and failure.code < 0:  # a rank that had not begun, or was too slow to save
                return Supervised(attempt, tuple(failures), interrupted=True)
            failures.append(failure)
            crew.failed(failure)
            if failure.code in FINAL:
                raise in_its_words(failure)
            if stop.is_set() or attempt > ranks.restarts:
                raise _given_up(failure, attempt)
            pause_s = ranks.pause_s * 2 ** (attempt - 1)
            told(f"{failure}; starting all ranks again ({attempt} of {ranks.restarts}) in {pause_s:g} s")
            stop.wait(pause_s)


def last_lines(log: Path, most: int = 5) -> list[str]:
    """The end of what a rank printed; nothing, where it printed nothing."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace").strip().splitlines()[-most:]


def in_its_words(failure: Failure) -> LlmopsError:
    """The error that the rank printed: `error:` with its lines."""
    lines = last_lines(failure.log, most=40)
    begin = max((number for number, line in enumerate(lines) if line.startswith("error: ")), default=None)
    if begin is None:
        return FINAL[failure.code](str(failure), where=str(failure.log), hint=lines[-1] if lines else None)
    told = {"what": lines[begin].removeprefix("error: "), "where": str(failure.log), "hint": None}
    for line in lines[begin + 1 :]:
        if line.startswith("  --> "):
            told["where"] = line.removeprefix("  --> ")
        elif line.startswith("hint: "):
            told["hint"] = line.removeprefix("hint: ")
    return FINAL[failure.code](str(told["what"]), where=told["where"], hint=told["hint"])


def _given_up(failure: Failure, attempts: int) -> UnavailableError:
    last = last_lines(failure.log)
    return UnavailableError(
        f"{failure}, after {attempts} attempt{'s' * (attempts > 1)}",
        where=None if failure.rank is None else str(failure.log),
        hint=(f"it last said: {last[-1]}; " if last else "") + "`llmops finetune resume` goes on from the checkpoint",
        code="rank_failed",
    )
