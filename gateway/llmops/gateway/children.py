"""Child processes of the supervisor: how one is made, and how its end is read.

Workers are forked (no thread and no loop exists in the parent, and what it has imported is shared memory); the control
process is executed afresh. Children end with their parent, however that ends, and leave Ctrl-C to it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import orjson

from llmops.core.errors import LlmopsError, UnavailableError
from llmops.core.logs import redact_text
from llmops.gateway.config import GatewayConfig

Work = Callable[[GatewayConfig, socket.socket, int, Callable[[], None]], None]
"""`run_worker(config, listener, number, ready)`: answers on the socket until SIGTERM, then drains and returns.

Calls `ready` once it answers. Takes the published configuration over at SIGHUP. It runs in a process of its own.
"""

READY = b"+"
_PR_SET_PDEATHSIG = 1  # man 2 prctl
_FAILED = 70
_log = logging.getLogger(__name__)


def fork_worker(
    work: Work, config: GatewayConfig, listener: socket.socket, number: int, close: list[int]
) -> tuple[int, int]:
    """Start a worker; gives its process id and the pipe on which it says READY, or why it could not start."""
    heard, said = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(said)
        return pid, heard
    try:
        code = _run(work, config, listener, number, (parent, heard, said, close))
    except BaseException:  # noqa: BLE001 - the process boundary: nothing may return into the supervisor's code
        sys.stderr.write(redact_text(traceback.format_exc()))
        code = _FAILED
    finally:
        sys.stderr.flush()
        os._exit(code)


def start_control(folder: Path, listener: socket.socket) -> subprocess.Popen[bytes]:
    """Start the control process on a socket that the supervisor keeps, so that a restart refuses no connection.

    It is told who its parent is: by the time it can ask, that may have ended, and the child may be somebody else's.
    """
    descriptor = listener.fileno()
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", "llmops.gateway.control.process", str(folder), str(descriptor), str(os.getpid())],
        pass_fds=[descriptor],
        process_group=0,  # Ctrl-C is the supervisor's
        stdin=subprocess.DEVNULL,
    )


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends (Linux only; elsewhere orphans are ended by hand)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(0)


def describe_end(status: int) -> str:
    """A wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def start_error(told: bytes) -> LlmopsError | None:
    """The error a worker told of instead of READY."""
    if not told or told.startswith(READY):
        return None
    values = orjson.loads(told)
    return UnavailableError(values["what"], where=values["where"], hint=values["hint"], code=values["code"])


def _run(
    work: Work, config: GatewayConfig, listener: socket.socket, number: int, ends: tuple[int, int, int, list[int]]
) -> int:
    parent, heard, said, close = ends
    _become_child(parent, [heard, *close])
    told = False

    def ready() -> None:
        nonlocal told
        if not told:
            os.write(said, READY)
            os.close(said)
            told = True

    try:
        work(config, listener, number, ready)
    except LlmopsError as error:
        if told:
            raise
        os.write(
            said, orjson.dumps({"what": error.what, "where": error.where, "hint": error.hint, "code": error.error_code})
        )
        return error.exit_code
    return 0


def _become_child(parent: int, close: list[int]) -> None:
    """Forget what only the supervisor may have: its signal handlers, its lock, its ends of pipes."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):  # SIGHUP until the worker handles it: its default would kill
        signal.signal(number, signal.SIG_IGN)
    for descriptor in close:
        os.close(descriptor)
    die_with_parent(parent)
