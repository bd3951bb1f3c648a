"""Several machines train together: node 0 decides when ranks start, and start again; the others do as it says.

A failure anywhere ends an attempt everywhere. A node that vanished may come back, as its cluster starts it again, and
the next attempt waits for it; so do the others for node 0. All of that is bounded, and told.

Knows what is said at a `Meeting`; what ranks do is whoever calls'.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.core.errors import GateFailedError, LlmopsError, UnavailableError, UserError
from llmops.core.files import write_atomic
from llmops.finetune.engines.signals import Stopped
from llmops.finetune.launch import meeting
from llmops.finetune.launch.local import Supervised, supervise
from llmops.finetune.launch.meeting import STORE, LeaderLostError, Meeting
from llmops.finetune.launch.place import Node
from llmops.finetune.launch.processes import Failure, Ranks, Seats, Stop, run_attempt, stopping

WORD = "meeting"
"""File of a run's folder: whoever can read it sees the folder of node 0."""
_LOOK_EVERY_S = 0.3


@dataclass(frozen=True)
class Patience:
    """How long nodes wait for each other.

    Args:
        join_s: for node 0, while images are pulled and queues are stood in.
        gather_s: for all nodes to be ready for an attempt; a cluster may have to find another machine.
        silent_s: for a sign of life of a node, before it is given up.
        folder_s: for what node 0 has written to be seen, on a file system that caches.
        part_s: for the others to hear that it is over.
    """

    join_s: float = 1800.0
    gather_s: float = 1800.0
    silent_s: float = 60.0
    folder_s: float = 30.0
    part_s: float = 10.0


class Leader:
    """Node 0: says which run it is, when an attempt begins, and how it all ended."""

    def __init__(self, node: Node, met: Meeting, patience: Patience) -> None:
        self._node, self._met, self._patience = node, met, patience
        self._attempt, self._looked, self._over = 0, 0.0, False
        self._heard: dict[int, tuple[int, float]] = {}

    def train(self, ranks: Ranks, folder: Path, told: Callable[[str], None]) -> Supervised:
        """Train on the ranks of all nodes.

        Args:
            folder: of the run, which all nodes have to see.
            told: hears of each failure and restart.

        Raises:
            UserError, GateFailedError, UnavailableError: as `local.supervise`.
        """
        self._met.tell("run", marked(folder))
        return supervise(ranks, told, crew=_Crew(self, ranks.processes))

    def over(self, how: dict[str, Any]) -> None:
        """Tell the others how it ended, the first time; wait a moment for them to hear, or to come at all."""
        if self._over:
            return
        self._over = True
        self._met.tell("over", how)
        until = time.monotonic() + self._patience.part_s
        while time.monotonic() < until and self._met.count("left") < self._node.nodes - 1:
            time.sleep(_LOOK_EVERY_S)

    def gather(self, attempt: int, stop: Stop, processes: int) -> Seats | None:
        """See `local.Crew`."""
        until, missing = time.monotonic() + self._patience.gather_s, self._missing(attempt)
        while missing and not stop.is_set():
            if (refused := self._met.told("refused")) is not None:
                raise UserError(refused["what"], where=refused["where"], hint=refused["hint"], code="node_refused")
            if time.monotonic() > until:
                names = ", ".join(f"node {one}" for one in missing)
                raise UnavailableError(
                    f"{names} did not come within {self._patience.gather_s:.0f} s",
                    hint="look at the logs of these nodes; the cluster may have no machine for them",
                    code="node_missing",
                )
            time.sleep(_LOOK_EVERY_S)
            missing = self._missing(attempt)
        if stop.is_set():
            return None
        self._attempt = attempt
        now = time.monotonic()
        self._heard = {node: (self._met.count(f"alive/{node}"), now) for node in range(1, self._node.nodes)}
        self._met.tell("begun", attempt)
        return seats(self._node, processes, attempt)

    def elsewhere(self) -> Failure | None:
        """What was told of this attempt, or a node of which nothing is heard; looked for a few times a second."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return None
        self._looked = now
        told = self._met.told(f"failed/{self._attempt}")
        if told is not None:
            return _failure(told)
        for node, (count, at) in self._heard.items():
            alive = self._met.count(f"alive/{node}")
            if alive != count:
                self._heard[node] = alive, now
            elif now - at > self._patience.silent_s:
                silent = f"is not heard of for {self._patience.silent_s:.0f} s"
                return Failure(self._attempt, None, -1, Path(), node, silent)
        return None

    def failed(self, failure: Failure) -> None:
        self._met.tell_first(f"failed/{self._attempt}", _told(failure))

    def _missing(self, attempt: int) -> list[int]:
        return [one for one in range(1, self._node.nodes) if not self._met.count(f"here/{attempt}/{one}")]


@contextmanager
def leading(node: Node, patience: Patience | None = None) -> Iterator[Leader]:
    """Be node 0; whatever ends it is told to the others.

    Raises:
        UnavailableError: the nodes cannot meet here.
    """
    leader = Leader(node, meeting.opened(node), patience or Patience())
    try:
        yield leader
    except BaseException as error:
        leader.over(ending(error))
        raise
    leader.over(ending(None))


def lend(
    node: Node,
    ranks_for: Callable[[Path], Ranks],
    restarts: int,
    told: Callable[[str], None],
    patience: Patience | None = None,
) -> None:
    """Be another node: run its ranks, attempt after attempt, until node 0 says that it is over.

    Args:
        ranks_for: what to run, for a run's folder.
        restarts: how often node 0 may be lost.

    Raises:
        Stopped: this node was asked to end before there was something to do.
        UserError: it does not see node 0's folder.
        UnavailableError: node 0 did not come, or was lost too often.
    """
    lost = 0
    with stopping() as stop:
        while True:
            try:
                _Follower(node, ranks_for, told, stop, patience or Patience()).run()
            except LeaderLostError as error:
                lost += 1
                if stop.is_set():
                    raise _stopped("node 0 is gone") from error
                if lost > restarts:
                    raise UnavailableError(
                        f"node 0 was lost {lost} times", hint="look at its log; start the job again to go on"
                    ) from error
                told(f"node 0 is gone; waiting for it to come back ({lost} of {restarts})")
            else:
                return


class _Follower:
    """One time at node 0's store."""

    def __init__(
        self,
        node: Node,
        ranks_for: Callable[[Path], Ranks],
        told: Callable[[str], None],
        stop: Stop,
        patience: Patience,
    ) -> None:
        self._node, self._ranks_for, self._told, self._stop, self._patience = node, ranks_for, told, stop, patience
        self._attempt, self._looked = 0, 0.0

    def run(self) -> None:
        def leave() -> None:
            if self._stop.is_set():
                raise _stopped("it had not begun")

        self._met = meeting.joined(self._node, within_s=self._patience.join_s, look=leave)
        self._told(f"{self._node}: node 0 is there; waiting for its word")
        run = self._next("run")
        if run is not None:
            self._attempts(self._ranks_for(self._folder(run)))
        self._part()

    def _attempts(self, ranks: Ranks) -> None:
        """One after the other, until it is over. What began without this process had lost its ranks."""
        begun = self._met.told("begun") or 0
        if begun:
            self._fail(Failure(begun, None, -1, Path(), self._node.rank, "was started again"))
        while True:
            attempt = begun + 1
            self._met.count(f"here/{attempt}/{self._node.rank}", 1)
            if self._next("begun", lambda now, attempt=attempt: now >= attempt) is None:  # type: ignore[misc]
                return
            self._attempt = begun = attempt
            self._told(f"{self._node}: attempt {attempt}, ranks {self._node.rank * ranks.processes} and on")
            failure = run_attempt(ranks, attempt, self._stop, self._seats(ranks), self._elsewhere)
            if failure is not None:
                self._told(f"attempt {attempt} is over: {failure}")
                self._fail(failure)
                if self._stop.is_set():
                    raise _stopped("its ranks did not save in time")
            elif self._next(f"failed/{attempt}") is None:
                return

    def _seats(self, ranks: Ranks) -> Seats:
        return seats(self._node, ranks.processes, self._attempt)

    def _next(self, key: str, enough: Callable[[Any], bool] = lambda told: True) -> Any:
        """What node 0 tells under a key, or None where it says that it is over."""
        while True:
            self._met.count(f"alive/{self._node.rank}", 1)
            if self._met.told("over") is not None:
                return None
            found = self._met.told(key)
            if found is not None and enough(found):
                return found
            time.sleep(_LOOK_EVERY_S)

    def _elsewhere(self) -> Failure | None:
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return None
        self._looked = now
        self._met.count(f"alive/{self._node.rank}", 1)
        told = self._met.told(f"failed/{self._attempt}")
        return None if told is None else _failure(told)

    def _folder(self, run: dict[str, Any]) -> Path:
        """The run's folder, if it is the same one here.

        Raises:
            UserError: it is not; node 0 is told.
        """
        try:
            return same_folder(run, str(self._node), self._patience.folder_s)
        except UserError as error:
            self._met.count(f"alive/{self._node.rank}", 1)
            self._met.tell_first("refused", {"what": error.what, "where": error.where, "hint": error.hint})
            self._met.count("left", 1)
            raise

    def _fail(self, failure: Failure) -> None:
        self._met.tell_first(f"failed/{failure.attempt}", _told(failure))

    def _part(self) -> None:
        """End in order, whatever node 0 says: its exit code is the job's, and srun would kill it for another one's."""
        over = self._met.told("over")
        self._met.count("left", 1)
        if over["code"]:
            self._told(f"{self._node}: node 0 ended: {over['what']}")


class _Crew:
    """The other nodes, as `supervise` asks for them."""

    def __init__(self, leader: Leader, processes: int) -> None:
        self._leader, self._processes = leader, processes
        self.elsewhere, self.failed = leader.elsewhere, leader.failed

    def gather(self, attempt: int, stop: Stop) -> Seats | None:
        return self._leader.gather(attempt, stop, self._processes)


def seats(node: Node, processes: int, attempt: int) -> Seats:
    """A node's ranks of all, and the store at which they meet."""
    variables = {
        "MASTER_ADDR": node.host,
        "MASTER_PORT": str(node.port),
        "GROUP_RANK": str(node.rank),
        STORE: f"{node.host}:{node.port}/{attempt}",
    }
    return Seats(node.nodes * processes, node.rank * processes, node.rank, variables)


def marked(folder: Path) -> dict[str, Any]:
    """What the others are told of a run: its folder, and a new word that lies in it."""
    word = secrets.token_hex(16)
    write_atomic(folder / WORD, word.encode())
    return {"folder": str(folder), "word": word}


def same_folder(run: Mapping[str, Any], who: str, within_s: float) -> Path:
    """The run's folder, where it is the same one here.

    Raises:
        UserError: it is not.
    """
    folder, until = Path(run["folder"]), time.monotonic() + within_s
    while not (folder / WORD).is_file() or (folder / WORD).read_text() != run["word"]:
        if time.monotonic() > until:
            raise UserError(
                f"{who} does not see the run's folder as the first one does",
                where=str(folder),
                hint="launch.shared_dir has to be one folder that all nodes see, under the same path",
                code="folder_not_shared",
            )
        time.sleep(_LOOK_EVERY_S)
    return folder


def ending(error: BaseException | None) -> dict[str, Any]:
    """How it ended, for the others."""
    if error is None:
        return {"code": 0, "what": ""}
    if isinstance(error, LlmopsError):
        return {"code": error.exit_code, "what": error.what}
    asked = isinstance(error, KeyboardInterrupt | SystemExit)
    return {"code": 130 if asked else 2, "what": type(error).__name__}


def end_likewise(over: Mapping[str, Any]) -> None:
    """
    Raises:
        Stopped, UserError, GateFailedError, UnavailableError: as the first one's error.
    """
    code, what = int(over["code"]), f"the first one ended: {over['what']}"
    if code == 130:
        raise _stopped(what)
    if code:
        raise {1: UserError, 3: GateFailedError}.get(code, UnavailableError)(what, hint="its log says more")


def _told(failure: Failure) -> dict[str, Any]:
    return {**vars(failure), "log": str(failure.log)}


def _failure(told: dict[str, Any]) -> Failure:
    return Failure(**{**told, "log": Path(told["log"])})


def _stopped(why: str) -> Stopped:
    return Stopped(f"asked to end: {why}", hint="start the job again to go on")
