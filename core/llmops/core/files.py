"""Files that are there whole or not at all, ways that no link leads away from, locks that die with their process."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path

from llmops.core.errors import ConflictError

_LOOK_AGAIN_S = 0.02
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
"""A folder on the way to a file needs no right to be listed; macOS knows no such handle."""


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`, durably: after a crash at any point it holds the old bytes or the new ones.

    Raises:
        OSError: it cannot be written; names `path`, which is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise
    sync_directory(path.parent)


def open_beneath(root: str, inside: str, flags: int) -> int:
    """Open what lies in a folder by a way on which no link lies: whoever puts one there later leads nobody out.

    Args:
        root: the folder; its own links are followed.
        inside: the way from there, as names with `/` between; empty for the folder itself.

    Raises:
        OSError: it cannot be opened; ELOOP or ENOTDIR where a link lies on the way.
    """
    *folders, last = [name for name in inside.split("/") if name] or [""]
    if ".." in (*folders, last):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), inside)
    if not last:
        return os.open(root, flags)
    place = os.open(root, _FOLDER)
    try:
        for name in folders:
            further = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=place)
            os.close(place)
            place = further
        return os.open(last, flags | os.O_NOFOLLOW, dir_fd=place)
    finally:
        os.close(place)


def sha256_of(root: str, inside: str) -> str | None:
    """The hash of the bytes of a file that lies in a folder; None where it cannot be read there now.

    Only of a regular file: a pipe that was put in its place is not waited for, a link not followed (`open_beneath`).
    """
    try:
        descriptor = open_beneath(root, inside, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable (a new or removed file is a change of its folder)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(path: Path, *, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold `path` as a lock for one process; the kernel releases it at the process' end, however that comes.

    Args:
        wait_s: how long to wait for another process to be done.

    Raises:
        ConflictError: another process holds it; names its process id.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _locked(descriptor, wait_s):
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise ConflictError(
                f"another process is already {what}",
                where=f"process {holder}",
                hint="wait for it to end, then run again",
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_AGAIN_S)
        else:
            return True
