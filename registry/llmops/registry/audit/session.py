"""Which writers of the log are alive: each holds a file's lock, which the kernel frees when its process dies.

Knows files and locks; which actions a writer left open is told by the log.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from llmops.core.errors import StorageError
from llmops.core.ids import new_id
from llmops.core.state import StateConfig

_FOLDER = "audit.sessions"


class Session:
    """One writer, for as long as it is open."""

    def __init__(self, state: StateConfig) -> None:
        self.session_id = new_id()
        folder = state.root / _FOLDER
        making = folder / f".{self.session_id}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(making, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self._path = making.rename(folder / self.session_id)  # it has its name only once it is locked
        except OSError as error:
            raise StorageError(f"cannot write into the state folder: {error.strerror}", where=str(folder)) from error

    def close(self, *, owing: bool = False) -> None:
        """End it. One that owes an outcome leaves its file as the dead do, so that the next to act concludes it."""
        if not owing:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def ended(state: StateConfig) -> set[str]:
    """The sessions of this state folder whose process died; another machine's folder tells nothing about ours."""
    folder = state.root / _FOLDER
    if not folder.is_dir():
        return set()
    return {path.name for path in folder.iterdir() if path.name[0] != "." and not _held(path)}


def forget(state: StateConfig, session_id: str) -> None:
    """Remove what an ended session left."""
    (state.root / _FOLDER / session_id).unlink(missing_ok=True)


def _held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # it closed meanwhile
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
