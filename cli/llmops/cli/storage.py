"""What the machine refuses a command that is right in itself, and what to do then: no defect, and told as such."""

from __future__ import annotations

import errno
import os

from llmops.core.errors import LlmopsError, StorageError, UnavailableError

_HINTS = {
    errno.ENOENT: "make the folder first, or correct the path",
    errno.ENOTDIR: "a file stands where a folder is wanted: name another",
    errno.EEXIST: "a file stands where a folder is wanted: name another",
    errno.EISDIR: "a folder stands where a file is wanted: name another",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EACCES: "this account may not use it: ask for the right, or name another place",
    errno.EPERM: "this account may not use it: ask for the right, or name another place",
    errno.EROFS: "the file system is read-only: name another place",
    errno.ENOSPC: "free space on the disk, then run the same command again: what was done is kept",
    errno.EDQUOT: "your quota is used up: free space, then run the same command again: what was done is kept",
    errno.EIO: "the disk failed: look at the system's log",
}
_OPEN_FILES = {
    errno.EMFILE: "allow more open files (`ulimit -n`) and run it again",
    errno.ENFILE: "allow more open files and run it again",
}
_OF_PATHS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EACCES, errno.EPERM})
"""Without a path these may come from anything, a socket or a process: then they are shown whole."""
_FULL = os.strerror(errno.ENOSPC)
"""What libraries say that do not raise OSError (safetensors), beside SQLite's own words."""


def refusal(error: Exception) -> LlmopsError | None:
    """The error to show in place of the system's own, or a library's; None where it is not one of these."""
    if isinstance(error, OSError):
        where = None if error.filename is None else os.fsdecode(error.filename)
        if error.errno in _OPEN_FILES:
            return UnavailableError(str(error.strerror).lower(), where=where, hint=_OPEN_FILES[error.errno])
        hint = _HINTS.get(error.errno or 0)
        if hint is None or (where is None and error.errno in _OF_PATHS):
            return None
        return StorageError(f"the disk refused: {error.strerror}", where=where, hint=hint)
    if _FULL in str(error) or "disk is full" in str(error):
        return StorageError(f"the disk refused: {_FULL}", hint=_HINTS[errno.ENOSPC])
    return None
