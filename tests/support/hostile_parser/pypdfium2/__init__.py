"""Stands in for the PDF parser in child processes, and does what the "PDF" says: a parser that a document took over.

Put in front of `sys.path`, which parser processes inherit. The product's own code around it is the real one.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class PdfiumError(Exception):
    pass


class PdfDocument:
    """One page, whose text says what came of the deed."""

    def __init__(self, data: bytes) -> None:
        verb, _, argument = data.decode().splitlines()[1].partition(" ")
        self._text = str(getattr(self, f"_{verb}")(argument))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> PdfDocument:
        return self

    def get_textpage(self) -> PdfDocument:
        return self

    def get_text_range(self) -> str:
        return self._text

    def get_metadata_dict(self) -> dict[str, str]:
        return {}

    def get_objects(self, **_: Any) -> Iterator[object]:
        return iter(())

    def close(self) -> None:
        pass

    def _say(self, words: str) -> str:
        return words

    def _pid(self, _: str) -> int:
        return os.getpid()

    def _environment(self, _: str) -> str:
        return " ".join(sorted(os.environ))

    def _sleep(self, seconds: str) -> str:
        time.sleep(float(seconds))
        return "slept"

    def _segfault(self, _: str) -> str:
        ctypes.string_at(0)
        return "survived"

    def _exit(self, code: str) -> str:
        os._exit(int(code))

    def _allocate(self, megabytes: str) -> str:
        block = b"x" * (int(megabytes) << 20)
        return f"took {len(block) >> 20}"

    def _leak(self, megabytes: str) -> str:
        _LEAKED.append(b"x" * (int(megabytes) << 20))
        return "leaked"

    def _noise(self, words: str) -> str:
        os.write(1, words.encode() * 1000)
        print(words)
        return "noisy"

    def _forge(self, words: str) -> str:
        """Write to every open file descriptor: one of them carries the answers."""
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, words.encode() * 100)
            except OSError:
                continue
        return "forged"

    def _connect(self, address: str) -> str:
        host, _, port = address.partition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError as error:
            return f"refused: {error}"
        return "connected"

    def _execute(self, program: str) -> str:
        try:
            os.execv(program, [program])
        except OSError as error:
            return f"refused: {error}"

    def _write(self, path: str) -> str:
        try:
            Path(path).write_bytes(b"x" * (8 << 20))
        except OSError as error:
            return f"refused: {error}"
        return "written"


_LEAKED: list[bytes] = []
