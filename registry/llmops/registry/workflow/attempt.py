"""One attempt at one task, seen from the engine: start its process, listen, end it in time, read its answer.

Knows processes, files and clocks that only go forward; nothing of rows.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import orjson

from llmops.core.files import write_atomic
from llmops.core.names import ENVIRONMENT
from llmops.registry.workflow.child import LARGEST_BYTES, identity
from llmops.registry.workflow.journal import Ended
from llmops.registry.workflow.logfile import LogFile, Redactor
from llmops.registry.workflow.records import Failure

CHILD = "llmops.registry.workflow.child"
POLL = timedelta(seconds=60)
"""How soon a waiting task is asked again where it names no time; longer where something can wake it."""
_TICK_S = 0.2
_DRAIN_S = 2.0


@dataclass(frozen=True)
class Files:
    """Where an attempt keeps what it needs and leaves."""

    folder: Path
    task: str
    attempt: int

    def _path(self, kind: str) -> Path:
        return self.folder / f"{self.task}.{self.attempt}.{kind}"

    @property
    def request(self) -> Path:
        return self._path("request.json")

    @property
    def identity(self) -> Path:
        return self._path("process.json")

    @property
    def outcome(self) -> Path:
        return self._path("outcome.json")

    @property
    def log(self) -> Path:
        return self._path("log")

    def clear(self) -> None:
        """Remove all but the log, once the rows have it: an answer on its way may hold what a log must not."""
        for path in (self.request, self.identity, self.outcome):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Answer:
    """How an attempt ended, and whether another may end otherwise."""

    ended: Ended
    again: bool = False


@dataclass(frozen=True)
class Attempt:
    """What it takes to run a task once."""

    files: Files
    request: Mapping[str, Any]
    timeout_s: float
    grace_s: float
    redactor: Redactor

    def run(self, stop: Event) -> Answer:
        """Run it to its end, in time, or until `stop` is set; no process of its session is left."""
        request = {**self.request, "identity": str(self.files.identity), "outcome": str(self.files.outcome)}
        self.files.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.files.request, orjson.dumps(request), mode=0o600)
        begun = time.monotonic()
        with LogFile(self.files.log, self.redactor) as log:
            reading, lifeline = os.pipe()
            try:
                process = self._start(reading)
                ended_by = _listen(process, log, begun + self.timeout_s, self.grace_s, stop)
            finally:
                os.close(lifeline)
        return self._answer(process.returncode, ended_by, time.monotonic() - begun)

    def _start(self, lifeline: int) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", CHILD, str(self.files.request), str(lifeline)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, ENVIRONMENT: str(self.request["catalog"])},
                pass_fds=[lifeline],
                start_new_session=True,
            )
        finally:
            os.close(lifeline)

    def _answer(self, code: int, ended_by: str, duration_s: float) -> Answer:
        found = recover(self.files, self.redactor, duration_s, code)
        if found is not None and (not ended_by or found.ended.result != "failed"):
            return found
        if ended_by == "stop":
            return Answer(Ended("interrupted", duration_s, code))
        if ended_by == "timeout":
            failure = Failure(
                f"the task ran longer than {self.timeout_s:g} s", code="timeout", hint="raise its `timeout_s`"
            )
        elif code == -signal.SIGKILL:
            hint = "the system ends processes so that take too much memory"
            failure = Failure("the task's process was killed (SIGKILL)", code="killed", hint=hint)
        elif code < 0:
            failure = Failure(f"the task's process was ended by {signal.Signals(-code).name}", code="killed")
        else:
            failure = Failure(f"the task's process ended without an answer, exit code {code}", code="exit")
        return Answer(Ended("failed", duration_s, code, failure=failure), again=True)


def recover(files: Files, redactor: Redactor, duration_s: float = 0.0, code: int | None = None) -> Answer | None:
    """The answer that an attempt has left; None where it left none."""
    try:
        with files.outcome.open("rb") as file:
            outcome = orjson.loads(file.read(4 * LARGEST_BYTES))
    except (OSError, orjson.JSONDecodeError):
        return None
    if outcome["status"] == "succeeded":
        return Answer(Ended("succeeded", duration_s, code, values=outcome["values"]))
    if outcome["status"] == "waiting":
        again = datetime.now(UTC) + POLL * (5 if outcome["on"] else 1)
        until = datetime.fromisoformat(outcome["until"]) if outcome["until"] else again
        reason = redactor.clean(outcome["reason"])
        return Answer(Ended("waiting", duration_s, code, reason=reason, wake_at=until, wake_on=outcome["on"]))
    clean: dict[str, Any] = {
        key: redactor.clean(item) if isinstance(item, str) else item for key, item in outcome["error"].items()
    }
    return Answer(Ended("failed", duration_s, code, failure=Failure(**clean)), again=outcome["again"])


def end_leftover(files: Files) -> None:
    """End the session of an attempt whose engine is gone, if it still runs on this machine."""
    try:
        left = orjson.loads(files.identity.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return
    if left is None or identity(left["pid"]) != left:
        return
    with suppress(ProcessLookupError):
        os.killpg(left["pid"], signal.SIGKILL)
    deadline = time.monotonic() + _DRAIN_S
    while identity(left["pid"]) == left and time.monotonic() < deadline:
        time.sleep(0.01)


def _listen(process: subprocess.Popen[bytes], log: LogFile, deadline: float, grace_s: float, stop: Event) -> str:
    """Keep what the process prints until it ends; gives why it was ended: `timeout`, `stop`, or nothing."""
    assert process.stdout is not None
    ended_by, kill_at = "", float("inf")
    output = process.stdout.fileno()
    os.set_blocking(output, False)
    with process.stdout, selectors.DefaultSelector() as selector, _exit_of(process) as exited:
        selector.register(output, selectors.EVENT_READ)
        if exited is not None:
            selector.register(exited, selectors.EVENT_READ)
        while process.poll() is None:
            now = time.monotonic()
            if not ended_by and (now >= deadline or stop.is_set()):
                ended_by = "stop" if stop.is_set() else "timeout"
                kill_at = now + grace_s
                _signal(process, signal.SIGTERM)
            if now >= kill_at:
                _signal(process, signal.SIGKILL)
            for key, _ in selector.select(max(0.0, min(_TICK_S, deadline - now if not ended_by else _TICK_S))):
                if key.fd == output and not _take(output, log):
                    selector.unregister(output)
        _signal(process, signal.SIGKILL)  # whatever it has left behind in its session
        end = time.monotonic() + _DRAIN_S
        while output in selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(_TICK_S):
                if key.fd == output and not _take(output, log):
                    selector.unregister(output)
                elif key.fd == exited:
                    selector.unregister(key.fd)
    return ended_by


class _exit_of:
    """A descriptor that becomes readable when the process ends (Linux); None elsewhere."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._descriptor: int | None = None
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                self._descriptor = os.pidfd_open(process.pid)

    def __enter__(self) -> int | None:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _take(output: int, log: LogFile) -> bool:
    """Move what there is into the log; False at its end."""
    try:
        data = os.read(output, 1 << 16)
    except BlockingIOError:
        return True
    if data:
        log.write(data)
    return bool(data)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
