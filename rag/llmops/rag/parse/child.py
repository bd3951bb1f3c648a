"""One parser process, seen from the pool: started small, spoken to in frames, ended without mercy.

Started as a fresh interpreter, not forked: it inherits no model, no lock, no open file, no secret of the environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from enum import Enum
from typing import IO

from llmops.core.errors import UnavailableError
from llmops.rag.document import Parsed, RefusedDocumentError
from llmops.rag.parse import wire

_START_S = 60.0
_STDERR_TAIL = 2000
_READ_BYTES = 1 << 20
_MAX_BYTES_A_CHAR = 4
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from llmops.rag.parse.worker import main; main()"


@dataclass(frozen=True, slots=True)
class ChildLimits:
    max_bytes: int
    max_text_chars: int
    memory_bytes: int
    timeout_s: float


class Doing(Enum):
    """What a child is busy with; each has its own patience."""

    NOTHING = "nothing"
    STARTING = "starting"
    PARSING = "parsing"


class Child:
    """A running parser process and the one document it has."""

    def __init__(self, limits: ChildLimits) -> None:
        self._limits = limits
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-I", "-X", "utf8", "-c", _BOOT, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C in the terminal is the parent's to handle
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._answers.fileno(), False)
        self._frames = wire.FrameBuffer(limits.max_text_chars * _MAX_BYTES_A_CHAR)
        self.isolation: str | None = None
        self.doing = Doing.NOTHING
        self.deadline = float("inf")
        self._began = 0.0
        self.served = 0
        self._send(
            {
                "max_bytes": limits.max_bytes,
                "max_text_chars": limits.max_text_chars,
                "memory_bytes": limits.memory_bytes,
                "timeout_s": limits.timeout_s,
            }
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def overdue(self) -> bool:
        """Whether the document has had its time. One whose answer has begun to arrive is done, however late we look."""
        return time.monotonic() > self.deadline and not self._frames.begun

    @property
    def busy_s(self) -> float:
        """How long it has been parsing its document."""
        return time.monotonic() - self._began if self.doing is Doing.PARSING else 0.0

    def fileno(self) -> int:
        return self._answers.fileno()

    def start(self, path: str) -> None:
        """Give it a document. The document's own time starts when its parser is imported."""
        self.doing = Doing.STARTING
        self.deadline = time.monotonic() + _START_S
        self._send({"path": path})

    def receive(self) -> Parsed | RefusedDocumentError | None:
        """Take what has arrived; the answer, once it is whole. Never blocks.

        Raises:
            EOFError: the process ended.
            wire.BrokenFrameError: it speaks nonsense.
        """
        try:
            data = os.read(self.fileno(), _READ_BYTES)
        except BlockingIOError:
            return None
        if not data:
            raise EOFError
        self._frames.feed(data)
        while (frame := self._frames.take()) is not None:
            header, body = frame
            if "isolation" in header:
                self.isolation = str(header["isolation"])
            elif "begins" in header:
                self.doing = Doing.PARSING
                self._began = time.monotonic()
                self.deadline = self._began + self._limits.timeout_s
            else:
                self.doing, self.deadline = Doing.NOTHING, float("inf")
                self.served += 1
                return wire.unpack(header, body)
        return None

    def verdict(self) -> RefusedDocumentError:
        """Why a process that ended by itself did so, from its exit and its last words.

        Raises:
            UnavailableError: it never came to parse: this installation is broken, not the document.
        """
        code = self._wait()
        words = self._last_words()
        if self.doing is Doing.STARTING and self.isolation is None:
            raise UnavailableError("a parser process cannot start", where=words or f"exit code {code}")
        if "memory allocation" in words or "MemoryError" in words or "bad_alloc" in words:
            return RefusedDocumentError("memory")
        if code == -signal.SIGALRM:
            return RefusedDocumentError("timeout")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return RefusedDocumentError("crashed", f"the parser crashed on this file ({name})")

    def close(self) -> None:
        """End the process: at once if it is busy, by the end of its input if it is not."""
        self._requests.close()
        if self.doing is not Doing.NOTHING:
            self._process.kill()
        self._wait()
        self._answers.close()
        self._stderr.close()

    def _wait(self) -> int:
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _last_words(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_TAIL))
        return self._stderr.read().decode(errors="replace").strip()

    def _send(self, header: dict[str, object]) -> None:
        try:
            for buffer in wire.pack(header):
                self._requests.write(buffer)
        except BrokenPipeError:
            pass  # it is gone; `receive` finds its end, and `verdict` says why


def _environment() -> dict[str, str]:
    """Enough to find libraries, nothing to steal; one thread and few arenas, so that address space means memory."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    fixed = {
        "LC_ALL": "C.UTF-8",
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
        "TOKIO_WORKER_THREADS": "1",
    }
    return {**kept, **fixed}
