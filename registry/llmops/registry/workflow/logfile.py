"""What a task prints, kept in one file an attempt: secrets taken out, a flood cut in its middle.

Lines arrive in pieces; a secret is found only where it is whole, so what may still become one is held back.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from llmops.core.logs import redact_text
from llmops.core.redact import unfinished_secret

HEAD_BYTES = 8_000_000
TAIL_BYTES = 64_000
_HELD_CHARS = 64_000
_SHORT = 4
_SPAN_CHARS = 200
_BLOCK = "-----BEGIN"


class Redactor:
    """Takes out what looks like a secret, and the secrets that this run is known to use."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted((one for one in secrets if len(one) > _SHORT), key=len, reverse=True)

    def clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return redact_text(text)


class LogFile:
    """The file, open for writing. Holds at most head and tail of what is printed, whatever that is."""

    def __init__(self, path: Path, redactor: Redactor, *, head_bytes: int = HEAD_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._redactor = redactor
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""
        self._head_left = head_bytes
        self._tail = bytearray()
        self._left_out = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Take what was printed; whole lines are in the file when this returns."""
        self._held += self._decode(data)
        cut = self._held.rfind("\n") + 1
        if cut:  # of what spans lines, a key's block is long, and all else short
            block = self._held.rfind(_BLOCK)
            cut = min(cut, unfinished_secret(self._held[:cut], block if block >= 0 else max(0, cut - _SPAN_CHARS)))
        if len(self._held) - cut > _HELD_CHARS:
            cut = len(self._held)
        if cut:
            self._put(self._held[:cut])
            self._held = self._held[cut:]

    def close(self) -> None:
        self._put(self._held + self._decode(b"", True))
        self._held = ""
        if self._left_out > len(self._tail):
            self._file.write(f"\n[... {self._left_out - len(self._tail):,} bytes left out ...]\n".encode())
        if self._left_out:
            self._file.write(self._tail)
        self._file.close()

    def _put(self, text: str) -> None:
        data = self._redactor.clean(text).encode()
        head = data[: self._head_left]
        self._file.write(head)
        self._file.flush()
        self._head_left -= len(head)
        if rest := data[len(head) :]:
            self._left_out += len(rest)
            self._tail = (self._tail + rest)[-TAIL_BYTES:]


def last_lines(path: Path, lines: int = 20) -> list[str]:
    """The end of a log, for people; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []
