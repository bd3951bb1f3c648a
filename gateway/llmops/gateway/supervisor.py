"""The parent of the gateway's processes: starts them, replaces what dies, hands out new configurations, ends all.

It runs no event loop and no thread, so that forking stays safe, and answers no request. A new configuration is checked
whole first; a bad one is refused and said, and the old one stays in force. One supervisor a state folder.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llmops.core.errors import ConfigError, ConflictError, LlmopsError, StorageError, render
from llmops.core.ids import digest
from llmops.gateway.changes import Cause, Changes, Step
from llmops.gateway.children import Work, start_control
from llmops.gateway.compiled import running
from llmops.gateway.config import GatewayConfig, as_published
from llmops.gateway.crew import Crew, next_failures, note_end, note_start, pause_s, send, waited
from llmops.gateway.listen import address, listen
from llmops.gateway.published import (
    ProcessStatus,
    ReloadStatus,
    SupervisorStatus,
    publish,
    published_before,
    refuse_open_door,
)
from llmops.gateway.waking import Wake, catching

POLL_S = 1.0
"""How often the configuration file is looked at."""
CONTROL_STOP_S = 30.0
"""How long the control process may take to move the last rows into the lake."""
_SIGNALS = (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
_FIXED = ("state", "catalog", "host", "port", "control", "store")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where the configuration comes from, to be read again. `file` is watched where there is one."""

    read: Callable[[], GatewayConfig]
    file: Path | None = None


@dataclass(frozen=True)
class Parts:
    """What the supervisor is the parent of. `check` refuses beforehand what no worker could run with."""

    work: Work
    check: Callable[[GatewayConfig], None]


def standard_parts() -> Parts:
    """The data plane's worker."""
    from llmops.gateway.worker import check_worker, run_worker

    return Parts(run_worker, check_worker)


def _log_urls(url: str, control: str) -> None:
    _log.info("gateway at %s, control at %s", url, control)


def run_gateway(
    config: GatewayConfig,
    *,
    source: Source | None = None,
    parts: Parts | None = None,
    announce: Callable[[str, str], None] = _log_urls,
) -> None:
    """Open the gateway and answer until SIGTERM or Ctrl-C; running replies end first, for `shutdown_s` at most.

    Args:
        source: read again at SIGHUP, and where its file changed.
        announce: told the gateway's and the control's URL once every worker answers.

    Raises:
        ConfigError: strangers could use it without a key, or a secret, price or address is wrong.
        ConflictError: the port is in use, or another gateway runs on this state folder.
        UnavailableError: a worker keeps dying as soon as it starts.
        KeyboardInterrupt: after everything has stopped, where Ctrl-C asked for it.
    """
    parts = parts or standard_parts()
    refuse_open_door(config)
    if ":" in (how := running()):
        _log.warning("the gateway runs as %s", how)
    parts.check(config)
    with ExitStack() as stack:
        lock = stack.enter_context(_lock(config.folder))
        control = stack.enter_context(listen(config.control.host, config.control.port, setting="control.port"))
        crew = Crew(config, parts.work)
        stack.callback(crew.close)
        crew.resize(config.workers)
        wake = stack.enter_context(catching(_SIGNALS))
        crew.keep = [lock, control.fileno(), *wake.descriptors]
        gc.freeze()  # what was imported until here stays shared between the workers
        interrupted = _Supervisor(config, source, parts, crew, _Control(control)).run(wake, announce)
    if interrupted:
        raise KeyboardInterrupt


@dataclass
class _Control:
    """The control process, which is started again for ever: the workers answer without it."""

    listener: socket.socket
    status: ProcessStatus = field(default_factory=lambda: ProcessStatus("control"))
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    start_at: float = float("inf")

    def start_due(self, folder: Path) -> None:
        if self.start_at <= time.monotonic():
            self.process = start_control(folder, self.listener)
            self.start_at = float("inf")
            note_start(self.status, self.process.pid)

    def reap(self) -> None:
        if self.process is None or self.process.poll() is None:
            return
        code = self.process.returncode
        ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.failures = next_failures(self.status, self.failures)
        self.start_at = time.monotonic() + pause_s(self.failures)
        self.process = None
        note_end(self.status, ended)
        _log.error("the control process %s; it is started again, the workers go on", ended)

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(CONTROL_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.status.pid = 0


class _Supervisor:
    def __init__(
        self, config: GatewayConfig, source: Source | None, parts: Parts, crew: Crew, control: _Control
    ) -> None:
        self._config = config
        self._source = source
        self._check = parts.check
        self._crew = crew
        self._control = control
        self._file_mark = self._mark()
        self._next_look = time.monotonic() + POLL_S
        self._terminal = os.isatty(2)
        self._said = self._mute = ""
        self._file = str(source.file) if source and source.file else None
        self._changes = Changes(config.folder)
        before = published_before(config.folder)
        self._changes.settle(digest(before) if before else None)
        with self._changes.taking_up(Step("start", self._file, before, as_published(config))):
            self._status = SupervisorStatus(os.getpid(), time.time(), publish(config), self._file)

    def run(self, wake: Wake, announce: Callable[[str, str], None]) -> bool:
        """Until a signal ends it; tells whether that was Ctrl-C."""
        announced = False
        try:
            while True:
                self._crew.start_due(self._config, self._status.config_hash)
                self._control.start_due(self._config.folder)
                self._say_status()
                due = min(self._next_look, self._crew.due, self._control.start_at)
                caught, pipes = wake.wait(due - time.monotonic(), self._crew.pipes)
                for pipe in pipes:
                    self._crew.hear(pipe, self._status.config_hash)
                if signal.SIGCHLD in caught:
                    self._crew.reap()
                    self._control.reap()
                if caught & {signal.SIGTERM, signal.SIGINT} or self._terminal_gone(caught):
                    return signal.SIGINT in caught
                if signal.SIGHUP in caught or self._file_changed():
                    self._reload("signal" if signal.SIGHUP in caught else "file")
                if not announced and self._crew.answering:
                    announced = True
                    announce(self._crew.url, address(self._control.listener))
                    self._control.start_at = 0.0  # only now: its imports must not delay the first answer
        finally:
            self._stop(wake)

    # --- new configurations ---

    def _mark(self) -> tuple[int, int, int] | None:
        if self._source is None or self._source.file is None:
            return None
        try:
            found = self._source.file.stat()
        except OSError:
            return None  # an editor is replacing it
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _file_changed(self) -> bool:
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + POLL_S
        mark = self._mark()
        return mark is not None and mark != self._file_mark

    def _reload(self, cause: Cause) -> None:
        if self._source is None:
            return
        self._file_mark = self._mark()
        before, after = as_published(self._config), {}
        self._changes.settle(self._status.config_hash)
        try:
            config = self._source.read()
            after = as_published(config)
            _refuse_moving(self._config, config)
            refuse_open_door(config)
            self._check(config)
        except LlmopsError as error:
            self._changes.refused(Step(cause, self._file, before, after), error)
            self._refuse(error)
            return
        try:
            with self._changes.taking_up(Step(cause, self._file, before, after)):
                config_hash = publish(config)
        except StorageError as error:
            self._refuse(error)
            return
        self._config = config
        self._status.config_hash = config_hash
        self._status.reloads += 1
        self._status.reload = ReloadStatus(time.time())
        self._crew.reload()
        self._crew.resize(config.workers)
        _log.info("the new configuration is in force")

    def _refuse(self, error: LlmopsError) -> None:
        self._status.reload = ReloadStatus(time.time(), False, render(error))
        _log.error("the new configuration is refused, the old one stays in force\n%s", render(error))

    # --- status and end ---

    def _say_status(self) -> None:
        self._status.processes = [*(place.status for place in self._crew.places), self._control.status]
        if (said := repr(self._status)) != self._said:
            try:
                self._status.write(self._config.folder)
            except OSError as error:
                if self._mute != str(error):
                    _log.error("the status of the processes cannot be written: %s", error)
                self._mute = str(error)
            else:
                self._said, self._mute = said, ""

    def _terminal_gone(self, caught: set[int]) -> bool:
        """Whether a SIGHUP means that the terminal was closed, not that the file should be read again."""
        return signal.SIGHUP in caught and self._terminal and not os.isatty(2)

    def _stop(self, wake: Wake) -> None:
        """First the workers, whose last rows the control process then moves into the lake."""
        pids = self._crew.signal(signal.SIGTERM)
        deadline = time.monotonic() + self._config.shutdown_s + 2.0
        while pids := [pid for pid in pids if waited(pid) is None]:
            caught, _ = wake.wait(0.1)
            if caught & {signal.SIGINT, signal.SIGTERM} or time.monotonic() > deadline:
                for pid in pids:
                    send(pid, signal.SIGKILL)
        self._crew.close()
        self._control.stop()
        self._say_status()


def _refuse_moving(old: GatewayConfig, new: GatewayConfig) -> None:
    for name in _FIXED:
        if getattr(old, name) != getattr(new, name):
            raise ConfigError(f"`{name}` cannot change while the gateway runs", where=name, hint="restart the gateway")


@contextmanager
def _lock(folder: Path) -> Iterator[int]:
    """One gateway a folder. Its children close the lock, so that it ends with this process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / "gateway.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise ConflictError(
                "another gateway runs on this state folder",
                where=f"process {holder}",
                hint="end it first, or set another `state.dir`; kill -HUP makes it read its configuration again",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)
