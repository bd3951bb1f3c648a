"""A training on several ranks, of this machine or of several: they are started and watched, their journal read aloud.

Knows the ranks' files; how processes are watched is `launch`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from llmops.core.errors import UserError
from llmops.finetune.config import LaunchConfig
from llmops.finetune.engines import (
    Evaluated,
    Event,
    Listener,
    Prepared,
    Resumed,
    Saved,
    StepDone,
    Trained,
    Warned,
)
from llmops.finetune.engines.signals import Stopped
from llmops.finetune.journal import EVENTS
from llmops.finetune.launch.local import supervise
from llmops.finetune.launch.processes import Ranks
from llmops.finetune.launch.together import Leader
from llmops.finetune.runs import RunFolder
from llmops.finetune.worker import TRAINED

_LOOK_EVERY_S = 0.3
_KINDS: dict[str, Callable[..., Event]] = {
    "checkpoint": Saved,
    "resumed": Resumed,
    "warning": Warned,
    "evaluated": Evaluated,
}


def train_on_ranks(job: Prepared, folder: RunFolder, listen: Listener, leader: Leader | None = None) -> Trained:
    """Train on the plan's ranks, as often as `launch.restarts` allows.

    Args:
        leader: of several nodes.

    Raises:
        Stopped: they were asked to end, and saved.
        UnavailableError: a rank failed, and no restart is left.
    """
    launch = job.config.launch
    if launch.nodes > 1 and leader is None:
        raise UserError(
            f"launch.nodes is {launch.nodes}, and this is one machine on its own",
            hint="hand the job in: `llmops finetune CONFIG`; a run that was begun is gone on with",
            code="nodes_missing",
        )
    (folder.path / TRAINED).unlink(missing_ok=True)
    ranks = ranks_of(launch, folder.path)

    def told(text: str) -> None:
        folder.update(attempts=folder.record().attempts + 1)
        listen(Warned(0, text))

    with _Reading(folder, listen):
        if leader is None:
            supervise(ranks, told)
        else:
            leader.train(ranks, folder.path, told)
    if not (folder.path / TRAINED).exists():  # all ended in order, having saved
        raise Stopped(
            "training was asked to end and did: the newest checkpoint holds what was done",
            hint="go on with `llmops finetune resume RUN`",
        )
    return Trained(**folder.read(TRAINED))


def ranks_of(launch: LaunchConfig, folder: Path) -> Ranks:
    """The ranks of one machine that train a run."""
    return Ranks(
        "llmops.finetune.worker",
        (str(folder),),
        launch.ranks_per_node,
        folder / "logs",
        restarts=launch.restarts,
        environment=dict(launch.environment),
    )


class _Reading:
    """Tells what ranks write into the journal, from now on."""

    def __init__(self, folder: RunFolder, listen: Listener) -> None:
        self._listen, self._over = listen, threading.Event()
        self._files = [_Tail(folder.metrics, _step), _Tail(folder.path / EVENTS, _other)]
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._tell()

    def _read(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            self._tell()

    def _tell(self) -> None:
        for file in self._files:
            for event in file.new():
                self._listen(event)


class _Tail:
    """The whole lines that were added to a file since the last look; one that was replaced is read on from its end."""

    def __init__(self, path: Path, made: Callable[[dict[str, Any]], Event | None]) -> None:
        self._path, self._made = path, made
        self._place, self._inode = (path.stat().st_size, path.stat().st_ino) if path.exists() else (0, 0)

    def new(self) -> Iterator[Event]:
        if not self._path.exists():
            return
        found = self._path.stat()
        if found.st_ino != self._inode and self._inode:
            self._place = min(self._place, found.st_size)
        self._inode = found.st_ino
        with self._path.open("rb") as file:
            file.seek(self._place)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._place += len(whole)
        for line in whole.splitlines():
            event = self._made(orjson.loads(line))
            if event is not None:
                yield event


def _step(line: dict[str, Any]) -> Event:
    known = StepDone.__dataclass_fields__
    return StepDone(**{key: value for key, value in line.items() if key in known})


def _other(line: dict[str, Any]) -> Event | None:
    kind = _KINDS.get(line.pop("kind", ""))
    for key in ("at", "attempt"):
        line.pop(key, None)
    return None if kind is None else kind(**line)
