"""What a disk would hold after a power cut: only what was fsynced, under names whose folders were fsynced.

It watches this process' fsync and fdatasync calls; what a killed process leaves says nothing about them, since the
kernel keeps the pages.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import pytest


@dataclass(frozen=True)
class _Seen:
    path: Path
    names: dict[str, int] | None = None
    inode: int = 0
    size: int = 0


class PowerCut:
    """The durable side of a folder. Stricter than real disks: a file that was never synced is gone, not just short."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._contents: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int]] = {}
        self._lock = Lock()
        fsync, fdatasync = os.fsync, os.fdatasync

        def watched_fsync(descriptor: int) -> None:
            seen = self._look(descriptor)
            fsync(descriptor)
            self._note(seen)

        def watched_fdatasync(descriptor: int) -> None:
            seen = self._look(descriptor)
            fdatasync(descriptor)
            self._note(seen)

        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "fdatasync", watched_fdatasync)

    def restore(self, target: Path) -> Path:
        """Write the state after a power cut now to `target`."""
        with self._lock:
            self._copy(self._root, target)
        return target

    def _look(self, descriptor: int) -> _Seen:
        """What there is to sync before the call: what is written while it runs need not be durable after it."""
        status = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path) as entries:
                return _Seen(path, names={entry.name: entry.inode() for entry in entries})
        return _Seen(path, inode=status.st_ino, size=status.st_size)

    def _note(self, seen: _Seen) -> None:
        with self._lock:
            if seen.names is not None:
                self._names[seen.path] = seen.names
            elif seen.path.exists():
                self._contents[seen.inode] = seen.path.read_bytes()[: seen.size]

    def _copy(self, folder: Path, target: Path) -> None:
        target.mkdir(parents=True)
        for name, inode in self._names.get(folder, {}).items():
            if folder / name in self._names:
                self._copy(folder / name, target / name)
            elif inode in self._contents:
                (target / name).write_bytes(self._contents[inode])
