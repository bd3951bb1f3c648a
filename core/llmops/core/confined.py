"""A process that holds what is not trusted: a fresh interpreter, spoken to in frames, ended without mercy.

Both ends are here: `Confined` starts one and watches it, `Channel` is what its program serves. A frame is a JSON header
and a body, each with its length in front. The starter trusts no frame: what runs in the process may have been taken
over and can send anything, so sizes are bounded before memory is given. `fences` limits what the process can do; what
the frames mean is for the two who exchange them.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from typing import IO, Any, BinaryIO

_LENGTHS = struct.Struct(">IQ")
_MAX_HEADER_BYTES = 64_000_000
_STDERR_TAIL = 2000
_READ_BYTES = 1 << 20
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {module} import main; main()"


class BrokenFrameError(Exception):
    """The other side does not speak the protocol."""


def pack(header: dict[str, Any], body: bytes = b"") -> list[bytes]:
    """One frame, as buffers to be written one after the other (a long body is not copied)."""
    encoded = json.dumps(header).encode()
    return [_LENGTHS.pack(len(encoded), len(body)) + encoded, body]


class FrameBuffer:
    """Collects bytes as they come, and gives a frame when it is whole."""

    def __init__(self, max_body_bytes: int) -> None:
        self._data = bytearray()
        self._max_body_bytes = max_body_bytes

    @property
    def begun(self) -> bool:
        return bool(self._data)

    def feed(self, data: bytes) -> None:
        self._data += data

    def take(self) -> tuple[dict[str, Any], bytes] | None:
        """The next frame, or None while it is incomplete.

        Raises:
            BrokenFrameError: it is larger than any answer may be, or no JSON.
        """
        if len(self._data) < _LENGTHS.size:
            return None
        header_length, body_length = _LENGTHS.unpack_from(self._data)
        if header_length > _MAX_HEADER_BYTES or body_length > self._max_body_bytes:
            raise BrokenFrameError("the frame is too large")
        start = _LENGTHS.size + header_length
        if len(self._data) < start + body_length:
            return None
        with memoryview(self._data) as view:
            encoded, body = bytes(view[_LENGTHS.size : start]), bytes(view[start : start + body_length])
        del self._data[: start + body_length]
        try:
            header = json.loads(encoded)
        except (ValueError, RecursionError) as error:
            raise BrokenFrameError("the header is no JSON") from error
        if not isinstance(header, dict):
            raise BrokenFrameError("the header is no object")
        return header, body


class Confined:
    """A running process. It inherits no model, no lock, no open file, no secret of the environment.

    Args:
        module: whose `main()` it runs.
        max_body_bytes: the longest body it may send.
        environment: variables beside those that every such process gets.
    """

    def __init__(self, module: str, *, max_body_bytes: int, environment: dict[str, str] | None = None) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-I", "-X", "utf8", "-c", _BOOT.format(module=module), json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            env=_environment() | (environment or {}),
            start_new_session=True,  # a Ctrl-C in the terminal is the parent's to handle
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._answers.fileno(), False)
        self._frames = FrameBuffer(max_body_bytes)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def answering(self) -> bool:
        """Whether an answer has begun to arrive and is not whole yet."""
        return self._frames.begun

    def fileno(self) -> int:
        return self._answers.fileno()

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Ask. A process that is gone takes nothing; `read` finds its end."""
        try:
            for buffer in pack(header, body):
                self._requests.write(buffer)
        except BrokenPipeError:
            pass

    def read(self) -> None:
        """Take what has arrived. Never blocks.

        Raises:
            EOFError: the process ended.
        """
        try:
            data = os.read(self.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise EOFError
        self._frames.feed(data)

    def take(self) -> tuple[dict[str, Any], bytes] | None:
        """The next whole frame. Raises BrokenFrameError for nonsense."""
        return self._frames.take()

    def ended(self) -> tuple[int, str]:
        """Its exit code (negative: the signal) and its last words, once it has ended by itself."""
        return self._wait(), self._last_words()

    def close(self, *, kill: bool) -> None:
        """End the process: at once, or by the end of its input."""
        self._requests.close()
        if kill:
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


class Channel:
    """The process' own end. Whatever else is printed there goes to stderr, where it disturbs no frame."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._requests: BinaryIO = sys.stdin.buffer
        self._frames = FrameBuffer(max_body_bytes=0)

    def receive(self) -> dict[str, Any] | None:
        """The next request, None at the end of input."""
        while (frame := self._frames.take()) is None:
            data = os.read(self._requests.fileno(), 1 << 16)
            if not data:
                return None
            self._frames.feed(data)
        return frame[0]

    def send(self, buffers: list[bytes]) -> None:
        for buffer in buffers:
            self._answers.write(buffer)
        self._answers.flush()


def ending(code: int) -> str:
    """An exit code in words."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def ran_out_of_memory(words: str) -> bool:
    """Whether the last words of a process say that it wanted more memory than it may have."""
    return any(sign in words for sign in ("memory allocation", "MemoryError", "bad_alloc"))


def _environment() -> dict[str, str]:
    """Enough to find libraries, nothing to steal; one thread and few arenas, so that address space means memory."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    fixed = {
        "LC_ALL": "C.UTF-8",
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
        "TOKIO_WORKER_THREADS": "1",
    }
    return {**kept, **fixed}
