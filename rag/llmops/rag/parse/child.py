"""One parser process, seen from the pool: the document it has, its deadline, and what its end says about it."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from enum import Enum

from llmops.core.confined import Confined, ending, ran_out_of_memory
from llmops.core.errors import UnavailableError
from llmops.rag.document import Parsed, RefusedDocumentError, SourceItem
from llmops.rag.parse import wire

_START_S = 60.0
_MAX_BYTES_A_CHAR = 4
_PROGRAM = "llmops.rag.parse.worker"


@dataclass(frozen=True, slots=True)
class ChildLimits:
    max_bytes: int
    max_text_chars: int
    memory_bytes: int
    timeout_s: float
    ocr: str | None = None


class Doing(Enum):
    """What a child is busy with; each has its own patience."""

    NOTHING = "nothing"
    STARTING = "starting"
    PARSING = "parsing"


class Child:
    """A running parser process and the one document it has."""

    def __init__(self, limits: ChildLimits) -> None:
        self._limits = limits
        self._process = Confined(_PROGRAM, max_body_bytes=limits.max_text_chars * _MAX_BYTES_A_CHAR)
        self.isolation: str | None = None
        self.doing = Doing.NOTHING
        self.deadline = float("inf")
        self._began = 0.0
        self.served = 0
        self._process.send(
            {
                "max_bytes": limits.max_bytes,
                "max_text_chars": limits.max_text_chars,
                "memory_bytes": limits.memory_bytes,
                "timeout_s": limits.timeout_s,
                "ocr": limits.ocr,
            }
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def overdue(self) -> bool:
        """Whether the document has had its time. One whose answer has begun to arrive is done, however late we look."""
        return time.monotonic() > self.deadline and not self._process.answering

    @property
    def busy_s(self) -> float:
        """How long it has been parsing its document."""
        return time.monotonic() - self._began if self.doing is Doing.PARSING else 0.0

    def fileno(self) -> int:
        return self._process.fileno()

    def start(self, item: SourceItem) -> None:
        """Give it a document. The document's own time starts when its parser is imported."""
        self.doing = Doing.STARTING
        self.deadline = time.monotonic() + _START_S
        self._process.send({"path": item.path, "root": item.place.root, "inside": item.place.inside})

    def receive(self) -> Parsed | RefusedDocumentError | None:
        """Take what has arrived; the answer, once it is whole. Never blocks.

        Raises:
            EOFError: the process ended.
            BrokenFrameError: it speaks nonsense.
        """
        self._process.read()
        while (frame := self._process.take()) is not None:
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
        code, words = self._process.ended()
        if self.doing is Doing.STARTING and self.isolation is None:
            raise UnavailableError("a parser process cannot start", where=words or f"exit code {code}")
        if ran_out_of_memory(words):
            return RefusedDocumentError("memory")
        if code == -signal.SIGALRM:
            return RefusedDocumentError("timeout")
        return RefusedDocumentError("crashed", f"the parser crashed on this file ({ending(code)})")

    def close(self) -> None:
        """End the process: at once if it is busy, by the end of its input if it is not."""
        self._process.close(kill=self.doing is not Doing.NOTHING)
