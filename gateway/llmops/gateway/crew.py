"""The workers under the supervisor: each place is filled again when its worker ends, at once the first time.

A worker that keeps ending as soon as it starts is not tried for ever: that is an error of the whole gateway.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from dataclasses import dataclass

from llmops.core.errors import LlmopsError, UnavailableError
from llmops.gateway.children import READY, Work, describe_end, fork_worker, start_error
from llmops.gateway.config import GatewayConfig
from llmops.gateway.listen import address, join, listen
from llmops.gateway.published import ProcessStatus

AT_ONCE_S = 5.0
"""A process that ends sooner than this after its start counts as having failed to start."""
FAILED_STARTS = 5
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 30.0
_log = logging.getLogger(__name__)


@dataclass
class Place:
    """One place among the workers, whoever fills it at the moment."""

    number: int
    listener: socket.socket
    status: ProcessStatus
    heard: int | None = None  # the pipe of a worker that has not said READY yet
    ready: bool = False
    config_hash: str = ""
    failures: int = 0
    start_at: float | None = 0.0  # when to start it; None while it runs
    leaving: bool = False
    error: LlmopsError | None = None


class Crew:
    """All workers. `keep` are descriptors of the supervisor that no worker may hold."""

    def __init__(self, config: GatewayConfig, work: Work) -> None:
        self.keep: list[int] = []
        first = listen(config.host, config.port, setting="port")
        self.url = address(first)
        self.places = [Place(0, first, ProcessStatus("worker 0"))]
        self._work = work
        self._started_all = False

    def resize(self, count: int) -> None:
        """Make places, or let the last ones finish what they are answering and go."""
        for number in range(len(self.places), count):
            joined = join(self.places[0].listener, setting="port")
            self.places.append(Place(number, joined, ProcessStatus(f"worker {number}")))
        for surplus in self.places[count:]:
            surplus.leaving = True
            send(surplus.status.pid, signal.SIGTERM)

    @property
    def answering(self) -> bool:
        """Whether every worker has said that it answers; stays true once it was."""
        self._started_all |= all(place.ready for place in self.places)
        return self._started_all

    @property
    def due(self) -> float:
        """When the next worker is to be started, on the monotonic clock."""
        return min((place.start_at for place in self.places if place.start_at is not None), default=float("inf"))

    @property
    def pipes(self) -> list[int]:
        return [place.heard for place in self.places if place.heard is not None]

    def start_due(self, config: GatewayConfig, config_hash: str) -> None:
        for place in self.places:
            if place.start_at is not None and place.start_at <= time.monotonic():
                pid, place.heard = fork_worker(self._work, config, place.listener, place.number, self._not_for(place))
                place.config_hash, place.start_at, place.ready = config_hash, None, False
                note_start(place.status, pid)

    def hear(self, pipe: int, config_hash: str) -> None:
        """Read what a starting worker says: that it answers, or why it cannot."""
        place = next(place for place in self.places if place.heard == pipe)
        self._told(place)
        if place.ready and place.config_hash != config_hash:
            send(place.status.pid, signal.SIGHUP)  # it was forked with the configuration before

    def reap(self) -> None:
        """Take notice of workers that ended.

        Raises:
            LlmopsError: one cannot start: what it said of that, or that it keeps dying.
        """
        for place in list(self.places):
            if place.status.pid and (ended := waited(place.status.pid)) is not None:
                self._ended(place, ended)

    def reload(self) -> None:
        """Tell the workers that answer of a new configuration; the others are told when they do."""
        for place in self.places:
            if place.ready:
                send(place.status.pid, signal.SIGHUP)

    def signal(self, number: signal.Signals) -> list[int]:
        """Send it to every worker that is there, and give their process ids."""
        pids = [place.status.pid for place in self.places if place.status.pid]
        for pid in pids:
            send(pid, number)
        return pids

    def close(self) -> None:
        for place in self.places:
            place.listener.close()
            place.status.pid = 0

    def _not_for(self, place: Place) -> list[int]:
        others = [other.listener.fileno() for other in self.places if other is not place]
        return [*self.keep, *others, *self.pipes]

    def _told(self, place: Place) -> None:
        assert place.heard is not None
        told = os.read(place.heard, 65536)
        os.close(place.heard)
        place.heard = None
        place.ready = told.startswith(READY)
        place.error = start_error(told)

    def _ended(self, place: Place, ended: str) -> None:
        if place.heard is not None:
            self._told(place)
        place.ready = False
        place.failures = next_failures(place.status, place.failures)
        note_end(place.status, ended)
        if place.leaving:
            place.listener.close()
            self.places.remove(place)
            return
        if place.error is not None and not self._started_all:
            raise place.error
        if place.failures >= FAILED_STARTS:
            raise place.error or UnavailableError(
                f"{place.status.name} ended {place.failures} times as soon as it was started: {ended}",
                where="gateway",
                hint="the lines above say why; `llmops doctor` checks this machine",
            )
        _log.error("%s %s; it is started again", place.status.name, ended)
        place.start_at = time.monotonic() + pause_s(place.failures)


def next_failures(status: ProcessStatus, failures: int) -> int:
    """How many times in a row it has now ended at once."""
    return failures + 1 if time.time() - status.started_at < AT_ONCE_S else 0


def pause_s(failures: int) -> float:
    """How long to wait before a start: not at all the first time, then longer each time."""
    return 0.0 if failures <= 1 else min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 4 ** (failures - 1))


def note_start(status: ProcessStatus, pid: int) -> None:
    if status.started_at:
        status.restarts += 1
    status.pid, status.started_at = pid, time.time()


def note_end(status: ProcessStatus, how: str) -> None:
    status.pid, status.last_end = 0, how


def waited(pid: int) -> str | None:
    """How a child ended; None while it runs."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return "gone"
    return describe_end(status) if found else None


def send(pid: int, number: signal.Signals) -> None:
    """Signal a child; one that has just ended is no error."""
    if pid:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            _log.debug("process %d was gone before %s", pid, number.name)
