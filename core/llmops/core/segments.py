"""Spool files as they lie in the folder: who still writes them, what of them is drained, and what is not.

A writer makes a segment under a hidden name, locks it and only then gives it its name; the kernel drops the lock when
the writer ends, however that comes. So a named segment without a lock has no writer any more.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from llmops.core.ids import new_id

SUFFIX = ".spool"
_DRAINED_SUFFIX = ".drained"
_LEFTOVER_AFTER_S = 3600
_BLANKED_AT_ONCE = 1024 * 1024


def create_segment(folder: Path) -> tuple[int, Path]:
    """A new, locked, empty segment: its descriptor for appending and its path. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{new_id()}-{os.getpid()}{SUFFIX}"
    hidden = path.with_name(f".{path.name}")
    descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        hidden.rename(path)
    except BaseException:
        os.close(descriptor)
        hidden.unlink(missing_ok=True)
        raise
    return descriptor, path


@dataclass(frozen=True)
class Segment:
    """One spool file, open for reading; it stays readable here also when the drainer removes it meanwhile."""

    path: Path
    descriptor: int

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(SUFFIX)

    def abandoned(self) -> bool:
        """Whether no process writes it any more. Ask before `read`: then what it gives is all there will ever be."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def read(self, start: int, limit: int | None = None) -> bytes:
        """The bytes from `start` on, at most `limit` of them."""
        size = os.fstat(self.descriptor).st_size - start
        size = size if limit is None else min(size, limit)
        pieces = []
        while size > 0 and (piece := os.pread(self.descriptor, size, start)):
            pieces.append(piece)
            start += len(piece)
            size -= len(piece)
        return b"".join(pieces)

    def size_bytes(self) -> int:
        return os.fstat(self.descriptor).st_size

    def drained(self) -> int:
        """The offset before which every record is durably in the lake: a note that saves reading, not the record of it.

        The lake's application transactions are that record; where the note is missing or torn, this is 0.
        """
        return _noted(self._note)

    def note_drained(self, offset: int) -> None:
        temporary = self._note.with_name(f".{self._note.name}")
        temporary.write_text(f"{offset} {offset}")
        temporary.replace(self._note)

    def blank_drained(self) -> None:
        """Overwrite what is drained with zeros, durably: nobody reads it again, and it may hold what must be forgotten.

        Raises OSError.
        """
        end = self.drained()
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            for start in range(0, end, _BLANKED_AT_ONCE):
                os.pwrite(descriptor, bytes(min(_BLANKED_AT_ONCE, end - start)), start)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    @property
    def _note(self) -> Path:
        return self.path.with_name(_note_name(self.path.name))


@contextmanager
def open_segments(folder: Path | None) -> Iterator[list[Segment]]:
    """All segments of the folder, oldest first, held open for the block; none without a folder."""
    segments = []
    try:
        for path in sorted(folder.glob(f"*{SUFFIX}") if folder else ()):
            if path.name.startswith("."):
                continue
            with suppress(FileNotFoundError):  # drained and removed since it was listed
                segments.append(Segment(path, os.open(path, os.O_RDONLY)))
        yield segments
    finally:
        for segment in segments:
            os.close(segment.descriptor)


def clear_leftovers(folder: Path) -> None:
    """Remove what a crash left between two steps: segments that never got their name, notes without a segment."""
    for hidden in folder.glob(f".*{SUFFIX}"):
        with suppress(FileNotFoundError):
            if time.time() - hidden.stat().st_mtime > _LEFTOVER_AFTER_S:
                hidden.unlink()
    for note in folder.glob(f"*{_DRAINED_SUFFIX}"):
        if not note.with_suffix(SUFFIX).exists():
            note.unlink(missing_ok=True)


def backlog_bytes(folder: Path) -> int:
    """How much lies in the folder that is not known to be in the lake yet; up to 0.5 MB a writer more than it is.

    The room that a writer has made counts too: whoever asks cannot tell it from records without reading it.
    """
    sizes: dict[str, int] = {}
    notes = set()
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_DRAINED_SUFFIX):
                notes.add(entry.name)
            elif entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                with suppress(FileNotFoundError):
                    sizes[entry.name] = entry.stat().st_size
    drained = {name: _noted(folder / _note_name(name)) for name in sizes if _note_name(name) in notes}
    return sum(max(0, size - drained.get(name, 0)) for name, size in sizes.items())


def _note_name(segment: str) -> str:
    return segment.removesuffix(SUFFIX) + _DRAINED_SUFFIX


def _noted(note: Path) -> int:
    try:
        words = note.read_text().split()
    except OSError:
        return 0
    return int(words[0]) if len(words) == 2 and words[0] == words[1] and words[0].isdigit() else 0
